// Depthwise convolution, 64 channels a step. First the bundled rows are interleaved so that a dword holds four taps of one
// channel: two levels of in-lane unpacks, 8 shuffles for a column of 64 channels. The result lies in scratch memory that stays in
// L1, where every output whose window holds the column reads it. One vpdpbusd then multiplies four live bytes a lane, where
// widening each tap to dwords would use one in four. The packs of the epilogue are in-lane too and undo the order, so bytes are
// stored with no permute.
//
// Blocks of at most 32 or 16 channels put 2 or 4 columns side by side in a register. Scratch memory has a plane for each of the
// four registers of a column; in a plane, columns follow each other in pieces of 64, 32 or 16 bytes, so that the columns of
// neighbouring outputs are one load at any offset. With a stride, the columns that one tap visits have planes of their own.
#include "kernels/epilogue__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {
namespace {

// kPixels pieces of 64 / kPixels channels, `step` bytes apart.
template <int kPixels, bool kMasked>
QGEMM_INLINE __m512i load64(const uint8_t* p, ptrdiff_t step, __mmask64 k) {
  if (kPixels == 1) return kMasked ? _mm512_maskz_loadu_epi8(k, p) : _mm512_loadu_si512(p);
  if (kPixels == 2) {
    const __mmask32 m = static_cast<__mmask32>(k);
    const __m256i a = kMasked ? _mm256_maskz_loadu_epi8(m, p) : _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    p += step;
    const __m256i b = kMasked ? _mm256_maskz_loadu_epi8(m, p) : _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_inserti64x4(_mm512_castsi256_si512(a), b, 1);
  }
  const __mmask16 m = static_cast<__mmask16>(k);
  __m128i v[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i, p += step)
    v[i] = kMasked ? _mm_maskz_loadu_epi8(m, p) : _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  const __m256i lo = _mm256_inserti128_si256(_mm256_castsi128_si256(v[0]), v[1], 1);
  const __m256i hi = _mm256_inserti128_si256(_mm256_castsi128_si256(v[2]), v[3], 1);
  return _mm512_inserti64x4(_mm512_castsi256_si512(lo), hi, 1);
}

// The same where some of the columns lie outside the image. row: its column 0; k: the bytes of one piece.
template <int kPixels>
QGEMM_INLINE __m512i load64_edge(const uint8_t* row, ptrdiff_t pixel, int64_t column, int64_t stride, int64_t columns,
                                 uint8_t padding, __mmask64 k) {
  __m512i v = _mm512_set1_epi8(static_cast<char>(padding));
#pragma GCC unroll 4
  for (int i = 0; i < kPixels; ++i, column += stride)
    if (column >= 0 && column < columns)
      v = _mm512_mask_loadu_epi8(v, k << (64 / kPixels * i), row + column * pixel - 64 / kPixels * i);
  return v;
}

// `positions` columns, g.stride apart, of one bundle to the four planes at `v`. Register j, lane i: taps 0..3 of channels
// 16 i + 4 j + 0..3.
template <int kPixels, bool kMasked>
void interleave(const depthwise_args& g, const uint8_t* const* rows, int channel, int64_t column, int positions, __mmask64 k,
                uint8_t* v, ptrdiff_t plane) {
  const ptrdiff_t step = g.stride * g.pixel;
  const int64_t end = g.columns - 3 * g.shift - (kPixels - 1) * g.stride;  // columns before it are loaded whole
  const uint8_t* const row[4] = {rows[0] + channel, rows[1] + channel, rows[2] + channel, rows[3] + channel};
  ptrdiff_t at[4];
  for (int i = 0; i < 4; ++i) at[i] = (column + i * g.shift) * g.pixel;
  uint8_t* const v3 = v + 3 * plane;
  for (int x = 0; x < positions; x += kPixels) {
    __m512i t[4];
    if (column >= 0 && column < end) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) t[i] = load64<kPixels, kMasked>(row[i] + at[i], step, k);
    } else {
      for (int i = 0; i < 4; ++i)
        t[i] = load64_edge<kPixels>(row[i], g.pixel, column + i * g.shift, g.stride, g.columns, g.padding, k);
    }
    const __m512i lo01 = _mm512_unpacklo_epi8(t[0], t[1]), hi01 = _mm512_unpackhi_epi8(t[0], t[1]);
    const __m512i lo23 = _mm512_unpacklo_epi8(t[2], t[3]), hi23 = _mm512_unpackhi_epi8(t[2], t[3]);
    _mm512_store_si512(v + 16 * (4 / kPixels) * x, _mm512_unpacklo_epi16(lo01, lo23));
    _mm512_store_si512(v + plane + 16 * (4 / kPixels) * x, _mm512_unpackhi_epi16(lo01, lo23));
    _mm512_store_si512(v + 2 * plane + 16 * (4 / kPixels) * x, _mm512_unpacklo_epi16(hi01, hi23));
    _mm512_store_si512(v3 + 16 * (4 / kPixels) * x, _mm512_unpackhi_epi16(hi01, hi23));
    column += kPixels * g.stride;
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) at[i] += kPixels * step;
  }
}

// What the tiles of one call share.
struct Tiles {
  const int32_t* offsets;  // [taps] of a tap's columns in scratch memory, of all bundles
  int taps, splits;
  ptrdiff_t plane;
  const int8_t* b;   // at the first lane
  ptrdiff_t b_next;  // bytes to the weights of the second output row
  const int32_t* correction;
  const float *scale, *bias;
  const Epilogue* e;
  ptrdiff_t ldc, ldr;
  int channels;
};

// The entries of one register that columns side by side all use.
template <int kPixels>
QGEMM_INLINE __m512i load_lanes(const void* p) {
  if (kPixels == 1) return _mm512_loadu_si512(p);
  if (kPixels == 2) return _mm512_broadcast_i64x4(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
  return _mm512_broadcast_i32x4(_mm_loadu_si128(static_cast<const __m128i*>(p)));
}
template <int kPixels>
QGEMM_INLINE __m512 load_lanes_ps(const float* p) {
  return _mm512_castsi512_ps(load_lanes<kPixels>(p));
}

// 64 bytes as kPixels pieces `ldc` apart; `pixels` of them and `channels` of each are valid.
template <int kPixels>
QGEMM_INLINE void store_pieces(__m512i bytes, char* c, ptrdiff_t ldc, int pixels, int channels) {
  if (kPixels == 1) {
    if (channels == 64)
      _mm512_storeu_si512(c, bytes);
    else
      _mm512_mask_storeu_epi8(c, lanes64(channels), bytes);
  } else if (kPixels == 2) {
    const __mmask32 k = static_cast<__mmask32>(lanes64(channels));
    _mm256_mask_storeu_epi8(c, k, _mm512_castsi512_si256(bytes));
    if (pixels > 1) _mm256_mask_storeu_epi8(c + ldc, k, _mm512_extracti64x4_epi64(bytes, 1));
  } else {
    const __mmask16 k = lanes16(channels);
    _mm_mask_storeu_epi8(c, k, _mm512_castsi512_si128(bytes));
    if (pixels > 1) _mm_mask_storeu_epi8(c + ldc, k, _mm512_extracti32x4_epi32(bytes, 1));
    if (pixels > 2) _mm_mask_storeu_epi8(c + 2 * ldc, k, _mm512_extracti32x4_epi32(bytes, 2));
    if (pixels > 3) _mm_mask_storeu_epi8(c + 3 * ldc, k, _mm512_extracti32x4_epi32(bytes, 3));
  }
}

// The tile to u8 or s8. kBounded: no input can bring y * inv_scale near 2^31, so the upper clamp waits until the values are
// bytes.
template <int kRows, int kVectors, int kPixels, bool kBounded>
QGEMM_INLINE void store_bytes_tile(const Tiles& s, __m512i (*acc)[kVectors][4], int pixels, char* c) {
  const Epilogue& e = *s.e;
  const __m512 inv_scale = _mm512_set1_ps(e.inv_scale), top = _mm512_set1_ps(static_cast<float>(e.hi - e.zero_point));
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m512 scale = load_lanes_ps<kPixels>(s.scale + 16 * j), bias = load_lanes_ps<kPixels>(s.bias + 16 * j);
#pragma GCC unroll 2
    for (int o = 0; o < kRows; ++o)
#pragma GCC unroll 6
      for (int i = 0; i < kVectors; ++i) {
        __m512 y = _mm512_mul_ps(_mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[o][i][j]), scale, bias), inv_scale);
        if (!kBounded) y = _mm512_min_ps(y, top);
        acc[o][i][j] = _mm512_cvtps_epi32(y);
      }
  }
  const __m512i zero_point = _mm512_set1_epi16(static_cast<short>(e.zero_point));
  const __m512i lo = _mm512_set1_epi8(static_cast<char>(e.lo)), hi = _mm512_set1_epi8(static_cast<char>(e.hi));
  const __m512i flip = _mm512_set1_epi8(e.out == OutType::s8 ? static_cast<char>(0x80) : 0);
#pragma GCC unroll 2
  for (int o = 0; o < kRows; ++o)
#pragma GCC unroll 6
    for (int i = 0; i < kVectors; ++i) {
      const __m512i* q = acc[o][i];
      const __m512i w01 = _mm512_adds_epi16(_mm512_packs_epi32(q[0], q[1]), zero_point);
      const __m512i w23 = _mm512_adds_epi16(_mm512_packs_epi32(q[2], q[3]), zero_point);
      const __m512i clamped = _mm512_min_epu8(_mm512_max_epu8(_mm512_packus_epi16(w01, w23), lo), hi);
      store_pieces<kPixels>(_mm512_xor_si512(clamped, flip), c + o * s.ldr + kPixels * i * s.ldc, s.ldc, pixels - kPixels * i,
                            s.channels);
    }
}

// Four accumulators from memory to s32 or f32.
template <int kPixels>
__attribute__((noinline)) void store_words(const Tiles& s, const int32_t* words, int pixels, char* c) {
  const Epilogue& e = *s.e;
  __m512i v[4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    v[j] = _mm512_load_si512(words + 16 * j);
    if (e.out != OutType::f32) continue;
    const __m512 y = _mm512_fmadd_ps(_mm512_cvtepi32_ps(v[j]), load_lanes_ps<kPixels>(s.scale + 16 * j),
                                     load_lanes_ps<kPixels>(s.bias + 16 * j));
    v[j] = _mm512_castps_si512(_mm512_min_ps(_mm512_max_ps(y, _mm512_set1_ps(e.f_lo)), _mm512_set1_ps(e.f_hi)));
  }
  transpose_lanes(v);
  constexpr int kLanes = 4 / kPixels;
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i)
    if (i / kLanes < pixels && 16 * (i % kLanes) < s.channels)
      _mm512_mask_storeu_epi32(c + i / kLanes * s.ldc + 64 * (i % kLanes), lanes16(valid16(s.channels, i % kLanes)), v[i]);
}

// kRows output rows of kVectors registers of outputs, whose columns begin at `v`; `pixels` of the outputs are valid.
template <int kRows, int kVectors, int kPixels>
void tile(const Tiles& s, const uint8_t* v, int pixels, char* c) {
  __m512i acc[kRows][kVectors][4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m512i start = load_lanes<kPixels>(s.correction + 16 * j);
#pragma GCC unroll 2
    for (int o = 0; o < kRows; ++o)
#pragma GCC unroll 6
      for (int i = 0; i < kVectors; ++i) acc[o][i][j] = start;
  }
  const int8_t* b = s.b;
  const ptrdiff_t plane = s.plane, b_next = s.b_next;
  for (int split = 0; split < s.splits; ++split) {
    const int32_t* offset = s.offsets;
#pragma GCC unroll 1
    for (const int32_t* const end = offset + s.taps; offset < end; ++offset, b += 256) {
      const uint8_t* u = v + *offset;
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j, u += plane) {
        __m512i w0 = load_lanes<kPixels>(b + 64 * j);
        __m512i w1 = kRows > 1 ? load_lanes<kPixels>(b + b_next + 64 * j) : w0;
        __asm__("" : "+v"(w0), "+v"(w1));  // in registers: as operands from memory they would be loaded again for each output
#pragma GCC unroll 6
        for (int i = 0; i < kVectors; ++i) {
          const __m512i x = _mm512_loadu_si512(u + 64 * i);
          acc[0][i][j] = _mm512_dpbusd_epi32(acc[0][i][j], x, w0);
          if (kRows > 1) acc[kRows - 1][i][j] = _mm512_dpbusd_epi32(acc[kRows - 1][i][j], x, w1);
        }
      }
    }
  }
  if (s.e->out == OutType::u8 || s.e->out == OutType::s8) {
    if (s.e->bounded)
      store_bytes_tile<kRows, kVectors, kPixels, true>(s, acc, pixels, c);
    else
      store_bytes_tile<kRows, kVectors, kPixels, false>(s, acc, pixels, c);
    return;
  }
  alignas(64) int32_t words[kRows][kVectors][64];
#pragma GCC unroll 2
  for (int o = 0; o < kRows; ++o)
#pragma GCC unroll 6
    for (int i = 0; i < kVectors; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) _mm512_store_si512(words[o][i] + 16 * j, acc[o][i][j]);
  for (int o = 0; o < kRows; ++o)
    for (int i = 0; i < kVectors; ++i)
      store_words<kPixels>(s, words[o][i], pixels - kPixels * i, c + o * s.ldr + kPixels * i * s.ldc);
}

// The instantiation for `vectors`, 1..kVectors.
template <int kRows, int kVectors, int kPixels>
struct TileOf {
  QGEMM_INLINE void run(int vectors, const Tiles& s, const uint8_t* v, int pixels, char* c) {
    if (vectors == kVectors)
      tile<kRows, kVectors, kPixels>(s, v, pixels, c);
    else
      TileOf<kRows, kVectors - 1, kPixels>::run(vectors, s, v, pixels, c);
  }
};
template <int kRows, int kPixels>
struct TileOf<kRows, 0, kPixels> {
  QGEMM_INLINE void run(int, const Tiles&, const uint8_t*, int, char*) {}
};

int64_t divisor(int64_t a, int64_t b) {
  while (b) {
    const int64_t r = a % b;
    a = b;
    b = r;
  }
  return a;
}

// `channels` channels from lane `lane` of the block on, kPixels columns a register.
template <int kPixels>
void run(const depthwise_args& g, int lane, int channels) {
  constexpr int kPiece = 64 / kPixels;  // bytes of a column in a plane
  const int64_t common = g.stride == 1 ? 1 : divisor(g.stride, g.dilation);
  const int period = static_cast<int>(g.stride / common < g.taps ? g.stride / common : g.taps);  // taps with planes of their own
  const int64_t advance = g.dilation / common;  // positions from a tap to the next that shares its planes
  const int64_t reach = period == 1 ? (g.taps - 1) * advance : (g.taps - 1) / period * advance;
  const int tile_vectors = g.outputs > 1 ? 3 : 6;
  const int all_taps = g.bundles * g.taps;
  int32_t* offsets = reinterpret_cast<int32_t*>(g.scratch);
  const ptrdiff_t offset_bytes = (static_cast<ptrdiff_t>(all_taps) * 4 + 63) / 64 * 64;
  const ptrdiff_t sets = static_cast<ptrdiff_t>(g.bundles) * period;  // of four planes
  // Even segments of as many outputs as fit.
  int64_t most = (g.scratch_bytes - offset_bytes) / (sets * 256) * kPixels - reach - kPixels;
  if (most > kPixels * tile_vectors) most = most / (kPixels * tile_vectors) * (kPixels * tile_vectors);
  const int64_t segments = (g.pixels + most - 1) / most;
  const int longest = static_cast<int>((g.pixels + segments - 1) / segments + kPixels - 1) / kPixels * kPixels;
  const ptrdiff_t plane = (longest + reach + kPixels - 1) / kPixels * 64;
  for (int q = 0, i = 0; q < g.bundles; ++q)
    for (int t = 0; t < g.taps; ++t, ++i)
      offsets[i] =
          static_cast<int32_t>((static_cast<ptrdiff_t>(q) * period + t % period) * 4 * plane + t / period * advance * kPiece);
  uint8_t* const v = g.scratch + offset_bytes;
  const __mmask64 k = lanes64(channels);
  const Epilogue& e = *g.ep;
  const int col = g.col + 4 * lane;
  const Tiles s{offsets,
                all_taps,
                g.splits,
                plane,
                g.b + 16 * lane,
                static_cast<ptrdiff_t>(g.splits) * all_taps * 256,
                e.correction + col,
                e.scale + col,
                e.bias + col,
                &e,
                g.ldc,
                g.ldr,
                channels};
  char* const out = static_cast<char*>(g.c) + 16 * lane * (e.out == OutType::u8 || e.out == OutType::s8 ? 1 : 4);
  for (int first = 0; first < g.pixels; first += longest) {
    const int pixels = g.pixels - first < longest ? g.pixels - first : longest;
    const int vectors = (pixels + kPixels - 1) / kPixels;
    for (int q = 0; q < g.bundles; ++q)
      for (int t = 0; t < period; ++t) {
        uint8_t* const planes = v + (static_cast<ptrdiff_t>(q) * period + t) * 4 * plane;
        const int64_t column = g.first + first * g.stride + t * g.dilation;
        const int positions = static_cast<int>(vectors * kPixels + (g.taps - 1 - t) / period * advance);
        if (channels == kPiece)
          interleave<kPixels, false>(g, g.rows + 4 * q, 16 * lane, column, positions, k, planes, plane);
        else
          interleave<kPixels, true>(g, g.rows + 4 * q, 16 * lane, column, positions, k, planes, plane);
      }
    const int tiles = (vectors + tile_vectors - 1) / tile_vectors;
    for (int i = 0; i < tiles; ++i) {
      const int from = vectors * i / tiles, to = vectors * (i + 1) / tiles;
      char* const c = out + (first + from * kPixels) * g.ldc;
      if (g.outputs > 1)
        TileOf<2, 3, kPixels>::run(to - from, s, v + 64 * from, pixels - from * kPixels, c);
      else
        TileOf<1, 6, kPixels>::run(to - from, s, v + 64 * from, pixels - from * kPixels, c);
    }
  }
}

// Filters three columns wide, of one bundle, with stride 1 or 2: the common case, in registers from the rows to the bytes.
// Columns stream by; each is interleaved once and adds to the two or three outputs whose windows hold it. The 12 registers of
// weights stay. Blocks of at most 32 or 16 channels cut the row in 2 or 4 parts that stream side by side.
constexpr int kEdges = 16;  // most columns that are not loaded whole; they are put together beforehand

struct Stream {
  const uint8_t* row[4];
  ptrdiff_t at, pixel, step;  // of the next column; bytes to the next; to the same column of the next part
  const uint8_t* edge;        // [kEdges][4][64]
  int column, whole_from, whole_to;
  const int32_t* correction;
  const float *scale, *bias;
  const float* inv_scale;
  const float* top;
  char* c;
  ptrdiff_t ldc, part;  // bytes from output to output, from part to part
  int left[4];          // outputs that each part still has to store
};

template <int kPixels, bool kMasked>
QGEMM_INLINE void next_column(Stream& s, __mmask64 k, __m512i* v) {
  __m512i t[4];
  if (s.column >= s.whole_from && s.column < s.whole_to) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) t[i] = load64<kPixels, kMasked>(s.row[i] + s.at, s.step, k);
  } else {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) t[i] = _mm512_load_si512(s.edge + 64 * i);
    s.edge += 256;
  }
  s.at += s.pixel;
  ++s.column;
  const __m512i lo01 = _mm512_unpacklo_epi8(t[0], t[1]), hi01 = _mm512_unpackhi_epi8(t[0], t[1]);
  const __m512i lo23 = _mm512_unpacklo_epi8(t[2], t[3]), hi23 = _mm512_unpackhi_epi8(t[2], t[3]);
  v[0] = _mm512_unpacklo_epi16(lo01, lo23);
  v[1] = _mm512_unpackhi_epi16(lo01, lo23);
  v[2] = _mm512_unpacklo_epi16(hi01, hi23);
  v[3] = _mm512_unpackhi_epi16(hi01, hi23);
}

template <int kPixels>
QGEMM_INLINE void start_output(const Stream& s, __m512i* acc) {
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) acc[j] = load_lanes<kPixels>(s.correction + 16 * j);
}

QGEMM_INLINE void add_column(__m512i* acc, const __m512i* v, const __m512i* w) {
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) acc[j] = _mm512_dpbusd_epi32(acc[j], v[j], w[j]);
}

struct Bytes {
  __m512i zero_point, lo, hi, flip;
};

template <int kPixels, bool kMasked, bool kBounded>
QGEMM_INLINE void finish_output(Stream& s, const Bytes& b, __mmask64 k, const __m512i* acc) {
  __m512i q[4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m512 y = _mm512_mul_ps(_mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[j]), load_lanes_ps<kPixels>(s.scale + 16 * j),
                                                   load_lanes_ps<kPixels>(s.bias + 16 * j)),
                                   _mm512_set1_ps(*s.inv_scale));
    q[j] = _mm512_cvtps_epi32(kBounded ? y : _mm512_min_ps(y, _mm512_set1_ps(*s.top)));
  }
  const __m512i w01 = _mm512_adds_epi16(_mm512_packs_epi32(q[0], q[1]), b.zero_point);
  const __m512i w23 = _mm512_adds_epi16(_mm512_packs_epi32(q[2], q[3]), b.zero_point);
  const __m512i clamped = _mm512_min_epu8(_mm512_max_epu8(_mm512_packus_epi16(w01, w23), b.lo), b.hi);
  const __m512i bytes = _mm512_xor_si512(clamped, b.flip);
  if (kPixels == 1) {
    if (kMasked)
      _mm512_mask_storeu_epi8(s.c, k, bytes);
    else
      _mm512_storeu_si512(s.c, bytes);
  } else if (kPixels == 2) {
    const __mmask32 m = static_cast<__mmask32>(k);
    _mm256_mask_storeu_epi8(s.c, m, _mm512_castsi512_si256(bytes));
    if (s.left[1]-- > 0) _mm256_mask_storeu_epi8(s.c + s.part, m, _mm512_extracti64x4_epi64(bytes, 1));
  } else {
    const __mmask16 m = static_cast<__mmask16>(k);
    _mm_mask_storeu_epi8(s.c, m, _mm512_castsi512_si128(bytes));
    if (s.left[1]-- > 0) _mm_mask_storeu_epi8(s.c + s.part, m, _mm512_extracti32x4_epi32(bytes, 1));
    if (s.left[2]-- > 0) _mm_mask_storeu_epi8(s.c + 2 * s.part, m, _mm512_extracti32x4_epi32(bytes, 2));
    if (s.left[3]-- > 0) _mm_mask_storeu_epi8(s.c + 3 * s.part, m, _mm512_extracti32x4_epi32(bytes, 3));
  }
  s.c += s.ldc;
}

template <int kPixels, bool kMasked, int kStride, bool kBounded>
void stream(Stream s, const Epilogue& e, const int8_t* weights, int outputs, __mmask64 k) {
  __m512i w[3][4];
#pragma GCC unroll 3
  for (int t = 0; t < 3; ++t)
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) w[t][j] = load_lanes<kPixels>(weights + 256 * t + 64 * j);
  const Bytes b{_mm512_set1_epi16(static_cast<short>(e.zero_point)), _mm512_set1_epi8(static_cast<char>(e.lo)),
                _mm512_set1_epi8(static_cast<char>(e.hi)), _mm512_set1_epi8(e.out == OutType::s8 ? static_cast<char>(0x80) : 0)};
  __m512i v[4], a0[4], a1[4], a2[4];
  next_column<kPixels, kMasked>(s, k, v);
  start_output<kPixels>(s, a0);
  add_column(a0, v, w[0]);
  if (kStride == 1) {
    next_column<kPixels, kMasked>(s, k, v);
    start_output<kPixels>(s, a1);
    add_column(a0, v, w[1]);
    add_column(a1, v, w[0]);
  }
  // done: its last column; half: its middle one; fresh: its first.
  const auto turn = [&](__m512i * done, __m512i * half, __m512i * fresh) __attribute__((always_inline)) {
    if (kStride == 2) {
      next_column<kPixels, kMasked>(s, k, v);
      add_column(done, v, w[1]);
    }
    next_column<kPixels, kMasked>(s, k, v);
    start_output<kPixels>(s, fresh);
    add_column(done, v, w[2]);
    if (kStride == 1) add_column(half, v, w[1]);
    add_column(fresh, v, w[0]);
    finish_output<kPixels, kMasked, kBounded>(s, b, k, done);
  };
  for (;;) {
    if (kStride == 1) {
      turn(a0, a1, a2);
      if (--outputs == 0) break;
      turn(a1, a2, a0);
      if (--outputs == 0) break;
      turn(a2, a0, a1);
      if (--outputs == 0) break;
    } else {
      turn(a0, nullptr, a1);
      if (--outputs == 0) break;
      turn(a1, nullptr, a0);
      if (--outputs == 0) break;
    }
  }
}

// False when too many columns are not whole.
template <int kPixels>
bool run_stream(const depthwise_args& g, int lane, int channels) {
  const int outputs = (g.pixels + kPixels - 1) / kPixels, columns = (outputs - 1) * static_cast<int>(g.stride) + 3;
  const int64_t apart = outputs * g.stride;  // columns from part to part
  const int64_t from = g.first < 0 ? -g.first : 0, to = g.columns - g.first - (kPixels - 1) * apart;
  const int whole_from = static_cast<int>(from < columns ? from : columns);
  const int whole_to = static_cast<int>(to < whole_from ? whole_from : to < columns ? to : columns);
  if (whole_from + columns - whole_to > kEdges) return false;
  const __mmask64 k = lanes64(channels);
  const Epilogue& e = *g.ep;
  const int col = g.col + 4 * lane;
  const float top = static_cast<float>(e.hi - e.zero_point);
  uint8_t* edge = g.scratch;
  for (int c = 0; c < columns; ++c) {
    if (c == whole_from) c = whole_to;
    if (c >= columns) break;
    for (int i = 0; i < 4; ++i, edge += 64)
      _mm512_store_si512(edge, load64_edge<kPixels>(g.rows[i] + 16 * lane, g.pixel, g.first + c, apart, g.columns, g.padding, k));
  }
  Stream s{};
  for (int i = 0; i < 4; ++i) s.row[i] = g.rows[i] + 16 * lane;
  s.at = g.first * g.pixel;
  s.pixel = g.pixel;
  s.step = apart * g.pixel;
  s.edge = g.scratch;
  s.whole_from = whole_from;
  s.whole_to = whole_to;
  s.correction = e.correction + col;
  s.scale = e.scale + col;
  s.bias = e.bias + col;
  s.inv_scale = &e.inv_scale;
  s.top = &top;
  s.ldc = g.ldc;
  s.part = outputs * g.ldc;
  for (int o = 0; o < g.outputs; ++o) {
    s.c = static_cast<char*>(g.c) + o * g.ldr + 16 * lane;
    for (int i = 0; i < kPixels; ++i) s.left[i] = g.pixels - i * outputs;
    const int8_t* b = g.b + o * 768 + 16 * lane;
    const bool masked = channels < 64 / kPixels;
    if (g.stride == 1) {
      if (e.bounded)
        masked ? stream<kPixels, true, 1, true>(s, e, b, outputs, k) : stream<kPixels, false, 1, true>(s, e, b, outputs, k);
      else
        stream<kPixels, true, 1, false>(s, e, b, outputs, k);
    } else {
      if (e.bounded)
        masked ? stream<kPixels, true, 2, true>(s, e, b, outputs, k) : stream<kPixels, false, 2, true>(s, e, b, outputs, k);
      else
        stream<kPixels, true, 2, false>(s, e, b, outputs, k);
    }
  }
  return true;
}

template <int kPixels>
void block(const depthwise_args& g, int lane, int channels) {
  const bool bytes = g.ep->out == OutType::u8 || g.ep->out == OutType::s8;
  if (bytes && g.taps == 3 && g.bundles == 1 && g.splits == 1 && g.dilation == 1 && g.shift == 0 && g.stride <= 2 &&
      run_stream<kPixels>(g, lane, channels))
    return;
  run<kPixels>(g, lane, channels);
}

}  // namespace

void depthwise_u8s8_1x64(const depthwise_args& g) {
  const int n = g.channels;
  if (n > 48) return block<1>(g, 0, n);
  if (n > 16) block<2>(g, 0, n < 32 ? n : 32);
  if (n <= 16) block<4>(g, 0, n);
  if (n > 32) block<4>(g, 2, n - 32);
}

}  // namespace avx512vnni
}  // namespace qgemm
