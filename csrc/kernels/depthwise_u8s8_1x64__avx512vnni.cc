// Depthwise convolution, 64 channels a step. Four taps of one channel must lie in a dword, so that one vpdpbusd multiplies four
// live bytes a lane, where widening each tap to dwords would use one in four. Input is interleaved to that form line by line, two
// levels of in-lane unpacks, 8 shuffles for 64 channels of a column. The lines lie in scratch memory that stays in L1, where
// every output whose window holds a column reads it, and those that the next output rows need as well stay there.
//
// What shares a dword:
//   4 x 1  four rows, one under the other. Where the window moves by one row, the same lines serve two output rows, the lower one
//          with a filter that stands one row lower in its bundles.
//   1 x 4  four columns side by side, for filters of one row
//   2 x 2  two rows and two columns, for a stride of 2: a line is then what the window moves by, so each is interleaved once
//
// What a register holds:
//   blocks   64 channels of one pixel, in the order that the unpacks leave and the packs of the epilogue undo
//   parts    16 or 32 channels of the same pixel in each of four or two parts of the row, as blocks otherwise. Weights and arrays
//            repeat in a register.
//   natural  64 bytes of a whole row of pixels that follow each other without a gap, wherever pixels begin in them: no lane is
//            idle whatever the number of channels. Weights and arrays are put into that order first, and repeat at their end.
#include "kernels/epilogue__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {
namespace {

constexpr int kMostSlots = 16;     // lines that are kept
constexpr ptrdiff_t kSpill = 256;  // bytes behind a line that its last pixel may overwrite

// How output rows read lines.
struct Plan {
  int lines, taps;   // of a window
  int row_step;      // input rows from a line to the next
  int lower[4];      // the row and the column of the four taps of a dword
  int64_t shift[4];  // ascending
  int64_t step;      // columns from a position to the next
  int period;        // taps that visit columns of their own have planes of their own
  int64_t apart;     // positions from a tap to the next one in its plane
  int64_t reach;     // positions behind an output that its window covers
};

// A part of the channels, and where it keeps what.
struct Layout {
  int lanes;       // positions of one pixel: 64, or all channels
  int parts;       // of the row, which registers hold side by side
  int64_t pixels;  // of a part
  int slots;       // lines that scratch memory holds
  int unit;        // input rows between lines that neighbouring slots hold; 0: lines are not kept
  int64_t longest;
  ptrdiff_t pitch, quarter;  // bytes from a position to the next, from a register of 64 lanes to the next
  ptrdiff_t plane, line;     // bytes
};

struct Tiles {
  const int32_t* offsets;  // [taps] of a tap's columns in scratch memory
  int taps, splits;
  const int8_t* b;
  ptrdiff_t quarter;           // of lines
  ptrdiff_t tap_bytes, below;  // from the weights of a tap to the next, of an output row to the next
  const int32_t* correction;
  const float *scale, *bias;
  const Epilogue* e;
  ptrdiff_t ldc, ldr;
  int channels, lanes;
  struct Parts* parts;  // null: the row is one
};

// Where the outputs of parts go. Tiles leave 64 bytes a pixel in `bytes`, as if they were channels.
constexpr int kTilePixels = 6;
struct Parts {
  int count;
  int64_t pixels[4];  // that each has in the image
  int64_t first;      // pixel of the segment
  ptrdiff_t part, ldc, ldr;
  __mmask64 lanes;
  char* bytes;  // [2][kTilePixels][64]
};

// Whether bytes are clamped, or flipped, beyond what packs that saturate do.
QGEMM_INLINE bool clamps_bytes(const Epilogue& e) { return e.lo > 0 || e.hi < 255 || e.out != OutType::u8; }

QGEMM_INLINE __m512i natural_order() { return _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15); }

// Four rows of 64 bytes to 64 dwords. Register j, lane i: 16 i + 4 j + 0..3; in natural order 16 j + 4 i + 0..3.
template <bool kNatural>
QGEMM_INLINE void interleave64(const __m512i* rows, uint8_t* v, ptrdiff_t quarter) {
  __m512i t[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) t[i] = kNatural ? _mm512_permutexvar_epi32(natural_order(), rows[i]) : rows[i];
  __asm__(""
          : "+v"(t[0]), "+v"(t[1]), "+v"(t[2]), "+v"(t[3]));  // in registers: as operands from memory they would be loaded twice
  const __m512i lo01 = _mm512_unpacklo_epi8(t[0], t[1]), hi01 = _mm512_unpackhi_epi8(t[0], t[1]);
  const __m512i lo23 = _mm512_unpacklo_epi8(t[2], t[3]), hi23 = _mm512_unpackhi_epi8(t[2], t[3]);
  _mm512_storeu_si512(v, _mm512_unpacklo_epi16(lo01, lo23));
  _mm512_storeu_si512(v + quarter, _mm512_unpackhi_epi16(lo01, lo23));
  _mm512_storeu_si512(v + 2 * quarter, _mm512_unpacklo_epi16(hi01, hi23));
  _mm512_storeu_si512(v + 3 * quarter, _mm512_unpackhi_epi16(hi01, hi23));
}

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

// The entries of one register that columns side by side all use.
template <int kPixels>
QGEMM_INLINE __m512i load_lanes(const void* p) {
  if (kPixels == 1) return _mm512_loadu_si512(p);
  if (kPixels == 2) return _mm512_broadcast_i64x4(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
  return _mm512_broadcast_i32x4(_mm_loadu_si128(static_cast<const __m128i*>(p)));
}

// One position, some of whose columns lie outside the image. What it writes behind its lanes the next one overwrites.
template <bool kNatural>
__attribute__((noinline)) void fill_edge(const depthwise_args& g, const Plan& p, const uint8_t* const* row, int64_t column, int n,
                                         uint8_t* v, ptrdiff_t quarter) {
  const __mmask64 k = lanes64(n);
  __m512i t[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const int64_t x = column + p.shift[i];
    t[i] = x >= 0 && x < g.columns ? _mm512_maskz_loadu_epi8(k, row[i] + x * g.pixel)
                                   : _mm512_set1_epi8(static_cast<char>(g.padding));
  }
  interleave64<kNatural>(t, v, quarter);
}

// The columns of one line that `outputs` pixels from column `first` on read, n <= 64 channels from `channel` on.
template <bool kNatural>
void fill_line(const depthwise_args& g, const Plan& p, const Layout& l, const uint8_t* const* rows, int channel, int n,
               int64_t first, int64_t outputs, uint8_t* line) {
  const uint8_t* row[4];
  for (int i = 0; i < 4; ++i) row[i] = rows[p.lower[i]] + channel;
  const ptrdiff_t pitch = l.pitch, quarter = l.quarter, step = p.step * g.pixel;
  for (int t = 0; t < p.period; ++t, line += l.plane, first += g.dilation) {
    const int64_t count = outputs + (p.taps - 1 - t) / p.period * p.apart;
    // Positions [lo, hi) lie inside with all four columns.
    int64_t lo = first < 0 ? (-first + p.step - 1) / p.step : 0;
    const int64_t last = g.columns - 1 - p.shift[3] - first;
    int64_t hi = last < 0 ? 0 : last / p.step + 1;
    if (hi > count) hi = count;
    if (lo > count) lo = count;
    if (hi < lo) hi = lo;
    for (int64_t x = 0; x < lo; ++x) fill_edge<kNatural>(g, p, row, first + x * p.step, n, line + x * pitch, quarter);
    ptrdiff_t at[4];
    for (int i = 0; i < 4; ++i) at[i] = (first + lo * p.step + p.shift[i]) * g.pixel;
    const uint8_t *r0 = row[0] + at[0], *r1 = row[1] + at[1], *r2 = row[2] + at[2], *r3 = row[3] + at[3];
    uint8_t* v = line + lo * pitch;
    const auto whole = [&](ptrdiff_t i) __attribute__((always_inline)) {
      const __m512i rows64[4] = {_mm512_loadu_si512(r0 + i), _mm512_loadu_si512(r1 + i), _mm512_loadu_si512(r2 + i),
                                 _mm512_loadu_si512(r3 + i)};
      interleave64<kNatural>(rows64, v + 4 * i, quarter);
    };
    if (kNatural && p.step == 1 && (hi - lo) * n >= 64) {
      const ptrdiff_t end = (hi - lo) * n - 64;
      for (ptrdiff_t i = 0; i < end; i += 64) whole(i);
      whole(end);
    } else if (n == 64) {
      for (int64_t x = lo; x < hi; ++x, r0 += step, r1 += step, r2 += step, r3 += step, v += pitch) whole(0);
    } else {
      const __mmask64 k = lanes64(n);
      for (int64_t x = lo; x < hi; ++x, r0 += step, r1 += step, r2 += step, r3 += step, v += pitch) {
        const __m512i rows64[4] = {_mm512_maskz_loadu_epi8(k, r0), _mm512_maskz_loadu_epi8(k, r1), _mm512_maskz_loadu_epi8(k, r2),
                                   _mm512_maskz_loadu_epi8(k, r3)};
        interleave64<kNatural>(rows64, v, quarter);
      }
    }
    for (int64_t x = hi; x < count; ++x) fill_edge<kNatural>(g, p, row, first + x * p.step, n, line + x * pitch, quarter);
  }
}

// The same for positions of kPixels parts of the row.
template <int kPixels>
void fill_line_of_parts(const depthwise_args& g, const Plan& p, const Layout& l, const uint8_t* const* rows, int channel, int n,
                        int64_t first, int64_t outputs, uint8_t* line) {
  const uint8_t* row[4];
  for (int i = 0; i < 4; ++i) row[i] = rows[p.lower[i]] + channel;
  const __mmask64 k = lanes64(n);
  const int64_t apart = l.pixels * g.stride, last = g.columns - p.shift[3] - (kPixels - 1) * apart;
  for (int t = 0; t < p.period; ++t, line += l.plane, first += g.dilation) {
    const int64_t count = outputs + (p.taps - 1 - t) / p.period * p.apart;
    uint8_t* v = line;
    for (int64_t i = 0, column = first; i < count; ++i, column += p.step, v += l.pitch) {
      __m512i r[4];
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j)
        r[j] = column >= 0 && column < last
                   ? load64<kPixels, true>(row[j] + (column + p.shift[j]) * g.pixel, apart * g.pixel, k)
                   : load64_edge<kPixels>(row[j], g.pixel, column + p.shift[j], apart, g.columns, g.padding, k);
      interleave64<false>(r, v, l.quarter);
    }
  }
}

// Four accumulators from memory to s32 or f32.
__attribute__((noinline)) void store_words(const Tiles& s, const int32_t* words, char* c) {
  const Epilogue& e = *s.e;
  __m512i v[4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    v[j] = _mm512_load_si512(words + 16 * j);
    if (e.out != OutType::f32) continue;
    const __m512 y =
        _mm512_fmadd_ps(_mm512_cvtepi32_ps(v[j]), _mm512_loadu_ps(s.scale + 16 * j), _mm512_loadu_ps(s.bias + 16 * j));
    v[j] = _mm512_castps_si512(_mm512_min_ps(_mm512_max_ps(y, _mm512_set1_ps(e.f_lo)), _mm512_set1_ps(e.f_hi)));
  }
  transpose_lanes(v);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i)
    if (16 * i < s.channels) _mm512_mask_storeu_epi32(c + 64 * i, lanes16(valid16(s.channels, i)), v[i]);
}

// kRows output rows of kParts registers of outputs. Part i reads columns v + from[i] on and goes to c + to[i]; its weights and
// arrays begin `phase` lanes in. kTaps: how many, if few; each of the four registers of an output is then finished before the
// next one is begun, so that conversions and products, which use different ports, overlap. With many taps weights are what is
// reused instead.
template <int kRows, int kParts, int kTaps, bool kBounded, bool kNatural>
__attribute__((noinline)) void tile(const Tiles& s, const uint8_t* v, const ptrdiff_t* from, ptrdiff_t phase, char* c,
                                    const ptrdiff_t* to) {
  __m512i acc[kRows][kParts][4];
  const auto start = [&](int j) __attribute__((always_inline)) {
    const __m512i correction = _mm512_loadu_si512(s.correction + phase + 16 * j);
#pragma GCC unroll 2
    for (int o = 0; o < kRows; ++o)
#pragma GCC unroll 6
      for (int i = 0; i < kParts; ++i) acc[o][i][j] = correction;
  };
  const auto multiply = [&](int j, const int8_t* b, const uint8_t* u) __attribute__((always_inline)) {
    __m512i w0 = _mm512_loadu_si512(b + 64 * j);
    __m512i w1 = kRows > 1 ? _mm512_loadu_si512(b + s.below + 64 * j) : w0;
    __asm__("" : "+v"(w0), "+v"(w1));  // in registers: as operands from memory they would be loaded again for each output
#pragma GCC unroll 6
    for (int i = 0; i < kParts; ++i) {
      const __m512i x = _mm512_loadu_si512(u + (kNatural ? from[i] : 64 * i));
      acc[0][i][j] = _mm512_dpbusd_epi32(acc[0][i][j], x, w0);
      if (kRows > 1) acc[kRows - 1][i][j] = _mm512_dpbusd_epi32(acc[kRows - 1][i][j], x, w1);
    }
  };
  const int8_t* b = s.b + 4 * phase;
  const ptrdiff_t quarter = s.quarter;
  const auto sum = [&](int j) __attribute__((always_inline)) {
    start(j);
#pragma GCC unroll 4
    for (int t = 0; t < kTaps; ++t) multiply(j, b + t * s.tap_bytes, v + s.offsets[t] + j * quarter);
  };
  if (kTaps == 0) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) start(j);
    for (int split = 0; split < s.splits; ++split) {
      const int32_t* offset = s.offsets;
#pragma GCC unroll 1
      for (const int32_t* const end = offset + s.taps; offset < end; ++offset, b += s.tap_bytes) {
        const uint8_t* u = v + *offset;
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j, u += quarter) multiply(j, b, u);
      }
    }
  }
  const Epilogue& e = *s.e;
  if (!kNatural && e.out != OutType::u8 && e.out != OutType::s8) {
    alignas(64) int32_t words[kRows][kParts][64];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      if (kTaps) sum(j);
#pragma GCC unroll 2
      for (int o = 0; o < kRows; ++o)
#pragma GCC unroll 6
        for (int i = 0; i < kParts; ++i) _mm512_store_si512(words[o][i] + 16 * j, acc[o][i][j]);
    }
    for (int o = 0; o < kRows; ++o)
      for (int i = 0; i < kParts; ++i) store_words(s, words[o][i], c + (kNatural ? to[i] : i * s.ldc) + o * s.ldr);
    return;
  }
  const __m512 inv_scale = _mm512_set1_ps(e.inv_scale), top = _mm512_set1_ps(static_cast<float>(e.hi - e.zero_point));
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    if (kTaps) sum(j);
    const __m512 scale = _mm512_loadu_ps(s.scale + phase + 16 * j), bias = _mm512_loadu_ps(s.bias + phase + 16 * j);
#pragma GCC unroll 2
    for (int o = 0; o < kRows; ++o)
#pragma GCC unroll 6
      for (int i = 0; i < kParts; ++i) {
        __m512 y = _mm512_mul_ps(_mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[o][i][j]), scale, bias), inv_scale);
        // No input of a bounded layer brings y near 2^31: the upper clamp waits until the values are bytes.
        if (!kBounded) y = _mm512_min_ps(y, top);
        acc[o][i][j] = _mm512_cvtps_epi32(y);
      }
  }
  const __m512i zero_point = _mm512_set1_epi16(static_cast<short>(e.zero_point));
  const __m512i lo = _mm512_set1_epi8(static_cast<char>(e.lo)), hi = _mm512_set1_epi8(static_cast<char>(e.hi));
  const __m512i flip = _mm512_set1_epi8(e.out == OutType::s8 ? static_cast<char>(0x80) : 0);
  const bool clamp = clamps_bytes(e);
  const __mmask64 k = lanes64(s.channels);
#pragma GCC unroll 2
  for (int o = 0; o < kRows; ++o)
#pragma GCC unroll 6
    for (int i = 0; i < kParts; ++i) {
      const __m512i* q = acc[o][i];
      const __m512i w01 = _mm512_adds_epi16(_mm512_packs_epi32(q[0], q[1]), zero_point);
      const __m512i w23 = _mm512_adds_epi16(_mm512_packs_epi32(q[2], q[3]), zero_point);
      __m512i bytes = _mm512_packus_epi16(w01, w23);
      if (clamp) bytes = _mm512_xor_si512(_mm512_min_epu8(_mm512_max_epu8(bytes, lo), hi), flip);
      if (kNatural)
        _mm512_storeu_si512(c + (kNatural ? to[i] : i * s.ldc) + o * s.ldr, _mm512_permutexvar_epi32(natural_order(), bytes));
      else
        _mm512_mask_storeu_epi8(c + (kNatural ? to[i] : i * s.ldc) + o * s.ldr, k, bytes);
    }
}

// Outputs [x, x + pixels) of each part, from where a tile left them. c: of pixel 0 of the segment in the first part.
template <int kPixels>
__attribute__((noinline)) void store_parts(const Parts& p, int rows, int64_t x, int64_t pixels, char* c) {
  for (int o = 0; o < rows; ++o)
    for (int q = 0; q < kPixels; ++q) {
      const char* from = p.bytes + (o * kTilePixels * kPixels + q) * (64 / kPixels);
      char* to = c + o * p.ldr + q * p.part + x * p.ldc;
      const int64_t left = p.pixels[q] - p.first - x, count = left < pixels ? left : pixels;
      for (int64_t i = 0; i < count; ++i, from += 64, to += p.ldc) {
        if (kPixels == 2)
          _mm256_mask_storeu_epi8(to, static_cast<__mmask32>(p.lanes), _mm256_load_si256(reinterpret_cast<const __m256i*>(from)));
        else
          _mm_mask_storeu_epi8(to, static_cast<__mmask16>(p.lanes), _mm_load_si128(reinterpret_cast<const __m128i*>(from)));
      }
    }
}

// Pixels [x, end) in blocks of channels, at most kParts of them side by side, as evenly as possible.
template <int kRows, int kParts, int kTaps, bool kBounded>
struct Blocks {
  static void run(const Tiles& s, const uint8_t* v, int64_t x, int64_t end, char* c) {
    const int64_t tiles = (end - x + kParts - 1) / kParts,
                  whole = end - x - tiles * (kParts - 1);  // of kParts; others have one less
    for (int64_t i = 0; i < whole; ++i, x += kParts) {
      tile<kRows, kParts, kTaps, kBounded, false>(s, v + 64 * x, nullptr, 0, s.parts ? s.parts->bytes : c + x * s.ldc, nullptr);
      if (!s.parts) continue;
      if (s.parts->count == 2)
        store_parts<2>(*s.parts, kRows, x, kParts, c);
      else
        store_parts<4>(*s.parts, kRows, x, kParts, c);
    }
    if (x < end) Blocks<kRows, kParts - 1, kTaps, kBounded>::run(s, v, x, end, c);
  }
};
template <int kRows, int kTaps, bool kBounded>
struct Blocks<kRows, 0, kTaps, kBounded> {
  static void run(const Tiles&, const uint8_t*, int64_t, int64_t, char*) {}
};

// A natural row of `pixels`, in kParts parts of pixels that overlap where the number does not divide; in fewer where they would
// be short or overlap by much.
template <int kRows, int kParts, int kTaps, bool kBounded>
void natural_pixels(const Tiles& s, const uint8_t* v, int64_t pixels, char* c) {
  constexpr int kFewer = kParts > 4 ? 4 : kParts == 4 ? 2 : kParts > 1 ? kParts - 1 : 1;
  const int64_t part = (pixels + kParts - 1) / kParts;
  if (kParts > 1 && (part * s.lanes < 64 || 8 * (part * kParts - pixels) > pixels))
    return natural_pixels<kRows, kFewer, kTaps, kBounded>(s, v, pixels, c);
  ptrdiff_t from[kParts], to[kParts];
  for (int i = 0; i < kParts; ++i) {
    to[i] = (i * part < pixels - part ? i * part : pixels - part) * s.lanes;
    from[i] = 4 * to[i];
  }
  const ptrdiff_t last = part * s.lanes - 64;
  ptrdiff_t at = 0, phase = 0;
  for (; at < last; at += 64, phase += 64) {
    while (phase >= s.lanes) phase -= s.lanes;
    tile<kRows, kParts, kTaps, kBounded, true>(s, v + 4 * at, from, phase, c + at, to);
  }
  tile<kRows, kParts, kTaps, kBounded, true>(s, v + 4 * last, from, last % s.lanes, c + last, to);
}

template <int kRows, int kTaps, bool kBounded, bool kNatural>
void pixels(const Tiles& s, const uint8_t* v, int64_t count, char* c) {
  constexpr int kParts = (kTaps ? 4 : 6) / kRows;  // whose accumulators fit in registers
  if (kNatural)
    natural_pixels<kRows, kParts, kTaps, kBounded>(s, v, count, c);
  else
    Blocks<kRows, kParts, kTaps, kBounded>::run(s, v, 0, count, c);
}

int64_t divisor(int64_t a, int64_t b) {
  while (b) {
    const int64_t r = a % b;
    a = b;
    b = r;
  }
  return a;
}

Plan plan_of(const depthwise_args& g, bool tiled) {
  Plan p{};
  if (tiled) {
    p.lines = (g.height + 1) / 2;
    p.taps = (g.taps + 1) / 2;
    p.row_step = 2;
    p.step = 2;
    p.period = 1;
    p.apart = 1;
    p.reach = p.taps - 1;
    for (int i = 0; i < 4; ++i) p.lower[i] = i % 2, p.shift[i] = i / 2;
    return p;
  }
  const int64_t common = g.stride == 1 ? 1 : divisor(g.stride, g.dilation);
  p.lines = g.bundles;
  p.taps = g.taps;
  p.row_step = 4;
  p.step = g.stride;
  p.period = static_cast<int>(g.stride / common < g.taps ? g.stride / common : g.taps);
  p.apart = g.dilation / common;
  p.reach = p.period == 1 ? (g.taps - 1) * p.apart : (g.taps - 1) / p.period * p.apart;
  for (int i = 0; i < 4; ++i) p.lower[i] = i, p.shift[i] = i * g.shift;
  return p;
}

// Where lines of `lanes` positions a pixel go in `bytes`; rows: input rows from what is computed at once to what comes next.
// False where they leave room for few pixels.
bool lay_out(const depthwise_args& g, const Plan& p, bool natural, int lanes, int parts, ptrdiff_t rows, ptrdiff_t bytes,
             int64_t fewest, Layout& l) {
  l.lanes = lanes;
  l.parts = parts;
  l.pixels = (g.pixels + parts - 1) / parts;
  for (int keep = 1; keep >= 0; --keep) {
    l.unit = keep ? static_cast<int>(divisor(p.row_step, rows)) : 0;
    l.slots = keep ? p.row_step * (p.lines - 1) / l.unit + 1 : p.lines;
    if (keep && l.slots > kMostSlots) continue;
    const ptrdiff_t position = static_cast<ptrdiff_t>(l.slots) * p.period * 4 * lanes;
    const int64_t most = (bytes - l.slots * (p.period * 64 + kSpill)) / position - p.reach;
    if (most < 1 || (most < fewest && most < l.pixels)) continue;
    const int64_t segments = (l.pixels + most - 1) / most;
    l.longest = (l.pixels + segments - 1) / segments;
    l.plane = ((l.longest + p.reach) * 4 * lanes + 63) / 64 * 64;
    l.pitch = natural ? 4 * lanes : 64;
    l.quarter = natural ? 64 : l.plane / 4;
    l.line = p.period * l.plane + kSpill;
    return true;
  }
  return false;
}

// All output rows of n channels from `channel` on.
template <bool kNatural>
void run(const depthwise_args& g, const Plan& p, const Layout& l, Tiles s, int channel, int n, int together, int32_t* offsets,
         uint8_t* v) {
  const Epilogue& e = *g.ep;
  char* const out = static_cast<char*>(g.c) + channel * (e.out == OutType::u8 || e.out == OutType::s8 ? 1 : 4);
  s.offsets = offsets;
  s.taps = p.lines * p.taps;
  s.splits = g.splits;
  s.e = &e;
  s.ldc = s.parts ? 64 : g.ldc;
  s.ldr = s.parts ? kTilePixels * 64 : g.ldr;
  s.channels = s.parts ? 64 : n;
  s.lanes = l.lanes;
  s.quarter = l.quarter;
  for (int64_t end = l.longest, x;; end += l.longest) {  // the last segment overlaps the one before
    if (end > l.pixels) end = l.pixels;
    x = end - l.longest;
    if (s.parts) s.parts->first = x;
    ptrdiff_t held[kMostSlots];
    for (int i = 0; i < kMostSlots; ++i) held[i] = -1;
    for (int o = 0, rows; o < g.outputs; o += rows) {
      rows = g.outputs - o < together ? 1 : together;
      for (int q = 0, k = 0; q < p.lines; ++q) {
        const ptrdiff_t r = o * g.advance + q * p.row_step;
        const int slot = l.unit ? static_cast<int>(r / l.unit % l.slots) : q;
        uint8_t* const line = v + slot * l.line;
        if (!l.unit || held[slot] != r) {
          if (l.parts == 1)
            fill_line<kNatural>(g, p, l, g.rows + r, channel, n, g.first + x * g.stride, l.longest, line);
          else if (l.parts == 2)
            fill_line_of_parts<2>(g, p, l, g.rows + r, channel, n, g.first + x * g.stride, l.longest, line);
          else
            fill_line_of_parts<4>(g, p, l, g.rows + r, channel, n, g.first + x * g.stride, l.longest, line);
          if (l.unit) held[slot] = r;
        }
        for (int t = 0; t < p.taps; ++t, ++k)
          offsets[k] = static_cast<int32_t>(slot * l.line + t % p.period * l.plane + t / p.period * p.apart * l.pitch);
      }
      char* const c = out + o * g.ldr + x * g.ldc;
      const int few = e.bounded && s.splits == 1 ? s.taps : 0;
      if (rows == 2)
        kNatural || few == 3 ? pixels<2, 3, true, kNatural>(s, v, l.longest, c)
        : e.bounded          ? pixels<2, 0, true, false>(s, v, l.longest, c)
                             : pixels<2, 0, false, false>(s, v, l.longest, c);
      else if (kNatural)
        pixels<1, 3, true, kNatural>(s, v, l.longest, c);
      else
        few == 1    ? pixels<1, 1, true, false>(s, v, l.longest, c)
        : e.bounded ? pixels<1, 0, true, false>(s, v, l.longest, c)
                    : pixels<1, 0, false, false>(s, v, l.longest, c);
    }
    if (end == l.pixels) break;
  }
}

// The weights of 64 channels for dwords of 2 x 2 taps, from those for 4 x 1.
void tile_weights(const depthwise_args& g, const Plan& p, const int8_t* b, int8_t* w) {
  for (int split = 0; split < g.splits; ++split)
    for (int q = 0; q < p.lines; ++q)
      for (int t = 0; t < p.taps; ++t) {
        const int8_t* at = b + ((static_cast<ptrdiff_t>(split) * g.bundles + q / 2) * g.taps + 2 * t) * 256;
        for (int j = 0; j < 4; ++j, at += 64, w += 64) {
          const __m512i left = _mm512_loadu_si512(at);
          const __m512i right = 2 * t + 1 < g.taps ? _mm512_loadu_si512(at + 256) : _mm512_setzero_si512();
          _mm512_storeu_si512(w, q % 2 ? _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(left, 16), right)
                                       : _mm512_mask_blend_epi16(0xaaaaaaaa, left, _mm512_slli_epi32(right, 16)));
        }
      }
}

// Dwords of at most 64 channels from block to natural order, repeated for another 64.
void natural_array(const void* from, int n, int32_t* to) {
  const int32_t* p = static_cast<const int32_t*>(from);
  __m512i v[4];
  for (int j = 0; j < 4; ++j) v[j] = _mm512_loadu_si512(p + 16 * j);
  transpose_lanes(v);
  for (int j = 0; j < 4; ++j) _mm512_storeu_si512(to + 16 * j, v[j]);
  for (int i = n; i < n + 64; i += 16) _mm512_storeu_si512(to + i, _mm512_loadu_si512(to + i - n));
}

// A filter of 3 rows and columns whose window moves by one, on rows of pixels of 16 to 48 channels. False where scratch memory
// does not suffice.
bool run_natural(const depthwise_args& g, const Plan& p, int together, int32_t* offsets, uint8_t* scratch, ptrdiff_t bytes) {
  constexpr ptrdiff_t kArray = 128;  // dwords
  const int n = g.channels;
  const ptrdiff_t arrays = (together * 3 + 3) * kArray * 4;
  Layout l;
  if (!lay_out(g, p, true, n, 1, together * g.advance, bytes - arrays, 8, l) || l.longest * n < 64) return false;
  int32_t* const weights = reinterpret_cast<int32_t*>(scratch);
  int32_t* to = weights;
  for (int o = 0; o < together; ++o)
    for (int t = 0; t < 3; ++t, to += kArray) natural_array(g.b + o * g.below + t * 256, n, to);
  const Epilogue& e = *g.ep;
  natural_array(e.correction + g.col, n, to);
  natural_array(e.scale + g.col, n, to + kArray);
  natural_array(e.bias + g.col, n, to + 2 * kArray);
  Tiles s{};
  s.b = reinterpret_cast<const int8_t*>(weights);
  s.tap_bytes = kArray * 4;
  s.below = 3 * kArray * 4;
  s.correction = to;
  s.scale = reinterpret_cast<const float*>(to + kArray);
  s.bias = reinterpret_cast<const float*>(to + 2 * kArray);
  run<true>(g, p, l, s, 0, n, together, offsets, scratch + arrays);
  return true;
}

// At most 32 channels from `channel` on, of filters whose weights lie in `b`. False where scratch memory does not suffice.
template <int kPixels>
bool run_parts(const depthwise_args& g, const Plan& p, const int8_t* b, int channel, int n, int together, int32_t* offsets,
               uint8_t* scratch, ptrdiff_t bytes) {
  const int filter = p.lines * p.taps * 4;  // registers
  const ptrdiff_t constant = (together * filter + 3 * 4 + 2 * kTilePixels) * 64;
  Layout l;
  if (!lay_out(g, p, false, 64, kPixels, together * g.advance, bytes - constant, 2, l)) return false;
  const Epilogue& e = *g.ep;
  const int col = g.col + channel;
  __m512i* to = reinterpret_cast<__m512i*>(scratch);
  Tiles s{};
  s.b = reinterpret_cast<const int8_t*>(to);
  s.tap_bytes = 256;
  s.below = filter * 64;
  for (int o = 0; o < together; ++o)
    for (int i = 0; i < filter; ++i) *to++ = load_lanes<kPixels>(b + o * g.below + 64 * i);
  s.correction = reinterpret_cast<const int32_t*>(to);
  for (int j = 0; j < 4; ++j) *to++ = load_lanes<kPixels>(e.correction + col + 16 * j);
  s.scale = reinterpret_cast<const float*>(to);
  for (int j = 0; j < 4; ++j) *to++ = load_lanes<kPixels>(e.scale + col + 16 * j);
  s.bias = reinterpret_cast<const float*>(to);
  for (int j = 0; j < 4; ++j) *to++ = load_lanes<kPixels>(e.bias + col + 16 * j);
  Parts parts{};
  parts.count = kPixels;
  for (int q = 0; q < kPixels; ++q) {
    const int64_t left = g.pixels - q * l.pixels;
    parts.pixels[q] = left < l.pixels ? left : l.pixels;
  }
  parts.part = l.pixels * g.ldc;
  parts.ldc = g.ldc;
  parts.ldr = g.ldr;
  parts.lanes = lanes64(n);
  parts.bytes = reinterpret_cast<char*>(to);
  s.parts = &parts;
  run<false>(g, p, l, s, channel, n, together, offsets, scratch + constant);
  return true;
}

// Filters of three dwords side by side, that is three columns of at most three rows or up to twelve columns of one row: the
// common case, in registers from the rows to the bytes. Positions stream by; each is interleaved once and adds to the two or
// three outputs whose windows hold it. The 12 registers of weights stay. Blocks of at most 32 or 16 channels cut the row in 2 or
// 4 parts that stream side by side. Filters of one dword, of at most four taps, are a stream whose positions add to one output
// each.
constexpr int kEdges = 12;  // most positions that are not loaded whole; they are put together beforehand

// What a stream reads again and again, in scratch memory. One pointer leads to all of it: there are few registers for pointers.
struct StreamArrays {
  __m512i correction[4];
  __m512 scale[4], bias[4], inv_scale, top;
  __m512i edges[kEdges][4];
};

// Positions are dilation columns apart, and so are outputs; with a dilation there are as many streams, `phase` columns shifted.
struct Stream {
  int64_t phase, apart;      // columns; from part to part
  ptrdiff_t position, step;  // bytes from a position to the next, from part to part
  int positions, whole_from, whole_to;
  int outputs, lacks[4];   // of a part; how many fewer each part has
  ptrdiff_t output, part;  // bytes from output to output, from part to part
  bool tail;               // 64 bytes from the last whole position on may end behind the row
};

struct Bytes {
  __m512i zero_point, lo, hi, flip;
};

template <auto kValue>
struct Constant {
  static constexpr auto value = kValue;
};

// Where an output is clamped: as floats too, where conversion could overflow; as bytes; or nowhere, where packs that saturate do.
enum class Clamp { floats, bytes, none };

// left: outputs that are to come, this one included.
template <int kPixels, bool kMasked, Clamp kClamp>
QGEMM_INLINE void finish_output(const StreamArrays& a, const Stream& s, const Bytes& b, __mmask64 k, const __m512i* acc, int left,
                                char* c) {
  __m512i q[4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m512 y = _mm512_mul_ps(_mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[j]), a.scale[j], a.bias[j]), a.inv_scale);
    q[j] = _mm512_cvtps_epi32(kClamp == Clamp::floats ? _mm512_min_ps(y, a.top) : y);
  }
  const __m512i w01 = _mm512_adds_epi16(_mm512_packs_epi32(q[0], q[1]), b.zero_point);
  const __m512i w23 = _mm512_adds_epi16(_mm512_packs_epi32(q[2], q[3]), b.zero_point);
  __m512i bytes = _mm512_packus_epi16(w01, w23);
  if (kClamp != Clamp::none) bytes = _mm512_xor_si512(_mm512_min_epu8(_mm512_max_epu8(bytes, b.lo), b.hi), b.flip);
  if (kPixels == 1) {
    if (kMasked)
      _mm512_mask_storeu_epi8(c, k, bytes);
    else
      _mm512_storeu_si512(c, bytes);
  } else if (kPixels == 2) {
    const __mmask32 m = static_cast<__mmask32>(k);
    _mm256_mask_storeu_epi8(c, m, _mm512_castsi512_si256(bytes));
    if (left > s.lacks[1]) _mm256_mask_storeu_epi8(c + s.part, m, _mm512_extracti64x4_epi64(bytes, 1));
  } else {
    const __mmask16 m = static_cast<__mmask16>(k);
    _mm_mask_storeu_epi8(c, m, _mm512_castsi512_si128(bytes));
    if (left > s.lacks[1]) _mm_mask_storeu_epi8(c + s.part, m, _mm512_extracti32x4_epi32(bytes, 1));
    if (left > s.lacks[2]) _mm_mask_storeu_epi8(c + 2 * s.part, m, _mm512_extracti32x4_epi32(bytes, 2));
    if (left > s.lacks[3]) _mm_mask_storeu_epi8(c + 3 * s.part, m, _mm512_extracti32x4_epi32(bytes, 3));
  }
}

// Where row i of a stream's dwords begins, of output row o.
QGEMM_INLINE const uint8_t* stream_row(const depthwise_args& g, const Stream& s, int o, int i, ptrdiff_t channel) {
  return g.rows[o * g.advance + (i < g.height ? i : 0)] + channel + (g.first + s.phase + i * g.shift) * g.pixel;
}

// Whether memory goes on behind the rows of output row o, as another row of the image.
template <int kRows>
QGEMM_INLINE bool followed(const depthwise_args& g, int o) {
  for (int i = 0; i < kRows; ++i) {
    const uint8_t* const* row = g.rows + o * g.advance + (i < g.height ? i : 0);
    if (row[1] != row[0] + g.columns * g.pixel) return false;
  }
  return true;
}

// The positions that are not whole, at the start and at the end of a row.
template <int kRows, int kPixels>
QGEMM_INLINE void fill_edges(const depthwise_args& g, const Stream& s, int o, ptrdiff_t channel, __mmask64 k,
                             __m512i (*edge)[4]) {
  for (int p = 0; p < s.positions; ++p) {
    if (p == s.whole_from) p = s.whole_to;
    if (p >= s.positions) break;
    for (int i = 0; i < kRows; ++i) {
      const int64_t column = g.first + s.phase + i * g.shift + p * (s.position / g.pixel);
      const uint8_t* row = g.rows[o * g.advance + (i < g.height ? i : 0)] + channel;
      (*edge)[i] = load64_edge<kPixels>(row, g.pixel, column, s.apart, g.columns, g.padding, k);
    }
    ++edge;
  }
}

// Lines of one position on their way to L2: L1 has no room for them beside the rows of the present output.
template <int kPixels>
QGEMM_INLINE void fetch_position(const uint8_t* p, ptrdiff_t step) {
  if (kPixels == 1) _mm_prefetch(p + 63, _MM_HINT_T1);
#pragma GCC unroll 4
  for (int i = 0; i < kPixels; ++i, p += step) _mm_prefetch(p, _MM_HINT_T1);
}

// Output rows [o, end) of one part of the channels. kRows: rows (or columns) of a dword that are loaded, 3 or 4. Of three the
// last is in the fourth byte too, where its weight is zero; with stride 2 that of the column beside is, so that the same unpacks
// serve both. kAhead: while an output row is computed, the input rows that the next one is the first to read are fetched. Walks
// of 64 bytes a pixel along several rows are no pattern that the core prefetches by itself.
template <int kTaps, int kRows, int kPixels, bool kMasked, int kStride, Clamp kClamp, bool kAhead>
void stream(const depthwise_args& g, const Stream& s, int o, int end, ptrdiff_t channel, const int8_t* weights, __mmask64 k) {
  const Epilogue& e = *g.ep;
  StreamArrays& a = *reinterpret_cast<StreamArrays*>(g.scratch);
  __m512i w[kTaps][4];
#pragma GCC unroll 3
  for (int t = 0; t < kTaps; ++t)
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      w[t][j] = load_lanes<kPixels>(weights + 256 * t + 64 * j);
      if (kStride == 2 && t != 1)  // the third byte moves to the fourth
        w[t][j] = _mm512_mask_blend_epi16(0xaaaaaaaa, w[t][j],
                                          _mm512_slli_epi32(_mm512_and_si512(w[t][j], _mm512_set1_epi32(0xff0000)), 8));
    }
  const Bytes b{_mm512_set1_epi16(static_cast<short>(e.zero_point)), _mm512_set1_epi8(static_cast<char>(e.lo)),
                _mm512_set1_epi8(static_cast<char>(e.hi)), _mm512_set1_epi8(e.out == OutType::s8 ? static_cast<char>(0x80) : 0)};
  const ptrdiff_t position = s.position, whole_from = s.whole_from * position;
  // Where a register holds one pixel, 64 bytes are loaded of a block of fewer channels too. Where a dword holds one column
  // besides, what is not whole is nothing but padding, and the tail of a row that no other follows in memory.
  constexpr bool kMaskedLoads = kMasked && kPixels > 1, kPadding = kRows == 3 && kPixels == 1;
  if (kPadding)
    for (int i = 0; i < kRows; ++i) a.edges[0][i] = _mm512_set1_epi8(static_cast<char>(g.padding));
  for (; o < end; ++o) {
    const uint8_t* row[kRows];
    for (int i = 0; i < kRows; ++i) row[i] = stream_row(g, s, o, i, channel);
    ptrdiff_t whole_to = s.whole_to * position, tail = -1;
    if (!kPadding) {
      fill_edges<kRows, kPixels>(g, s, o, channel, k, a.edges);
    } else if (s.tail && !followed<kRows>(g, o)) {
      tail = whole_to -= position;
      for (int i = 0; i < kRows; ++i) a.edges[1][i] = load64<1, true>(row[i] + tail, 0, k);
    }
    const uint8_t* ahead[kStride] = {};  // rows that the next output is the first to read
    for (int i = 0; kAhead && i < kStride; ++i)
      ahead[i] = stream_row(g, s, o + 1 < g.outputs ? o + 1 : o, kRows - kStride + i, channel);
    ptrdiff_t at = 0, next_edge = whole_from ? 0 : whole_to;
    const __m512i(*edge)[4] = a.edges;
    char* c = static_cast<char*>(g.c) + o * g.ldr + channel + s.phase * g.ldc;
    const auto load = [&](__m512i * t) __attribute__((always_inline)) {
      if (__builtin_expect(at == next_edge, 0)) {
#pragma GCC unroll 4
        for (int i = 0; i < kRows; ++i) t[i] = kPadding ? a.edges[at == tail][i] : (*edge)[i];
        ++edge;
        next_edge = at + position == whole_from ? whole_to : at + position;
      } else {
#pragma GCC unroll 4
        for (int i = 0; i < kRows; ++i) t[i] = load64<kPixels, kMaskedLoads>(row[i] + at, s.step, k);
        if (kAhead)
#pragma GCC unroll 2
          for (int i = 0; i < kStride; ++i) fetch_position<kPixels>(ahead[i] + at, s.step);
      }
      at += position;
      if (kStride == 2) __asm__("" : "+r"(at));  // one index for all rows: with a pointer for each there are too few registers
    };
    const auto interleave = [](const __m512i* t, __m512i lo23, __m512i hi23, __m512i* v) __attribute__((always_inline)) {
      const __m512i lo01 = _mm512_unpacklo_epi8(t[0], t[1]), hi01 = _mm512_unpackhi_epi8(t[0], t[1]);
      v[0] = _mm512_unpacklo_epi16(lo01, lo23);
      v[1] = _mm512_unpackhi_epi16(lo01, lo23);
      v[2] = _mm512_unpacklo_epi16(hi01, hi23);
      v[3] = _mm512_unpackhi_epi16(hi01, hi23);
    };
    const auto next = [&](__m512i * v) __attribute__((always_inline)) {
      __m512i t[kRows];
      load(t);
      interleave(t, _mm512_unpacklo_epi8(t[2], t[kRows - 1]), _mm512_unpackhi_epi8(t[2], t[kRows - 1]), v);
    };
    const auto start = [&](__m512i * acc) __attribute__((always_inline)) {
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) acc[j] = a.correction[j];
    };
    const auto add = [](__m512i * acc, const __m512i* v, const __m512i* weight) __attribute__((always_inline)) {
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) acc[j] = _mm512_dpbusd_epi32(acc[j], v[j], weight[j]);
    };
    int left = s.outputs;
    __m512i v[4], a0[4], a1[4], a2[4];
    if constexpr (kTaps == 1) {
      for (; left > 0; --left, c += s.output) {
        next(v);
        start(a0);
        add(a0, v, w[0]);
        finish_output<kPixels, kMasked, kClamp>(a, s, b, k, a0, left, c);
      }
      continue;
    }
    next(v);
    start(a0);
    add(a0, v, w[0]);
    if (kStride == 1) {
      next(v);
      start(a1);
      add(a0, v, w[kTaps / 2]);
      add(a1, v, w[0]);
    }
    // done: its last position; half: its middle one; fresh: its first.
    const auto turn = [&](__m512i * done, __m512i * half, __m512i * fresh) __attribute__((always_inline)) {
      if (kStride == 1) {
        next(v);
      } else {
        __m512i t[kRows], u[kRows];
        load(t);
        load(u);
        const __m512i lo = _mm512_unpacklo_epi8(t[2], u[2]), hi = _mm512_unpackhi_epi8(t[2], u[2]);
        interleave(t, lo, hi, v);
        add(done, v, w[kTaps / 2]);
        interleave(u, lo, hi, v);
      }
      start(fresh);
      add(done, v, w[kTaps - 1]);
      if (kStride == 1) add(half, v, w[kTaps / 2]);
      add(fresh, v, w[0]);
      finish_output<kPixels, kMasked, kClamp>(a, s, b, k, done, left, c);
      c += s.output;
    };
    for (;;) {
      if (kStride == 1) {
        turn(a0, a1, a2);
        if (--left == 0) break;
        turn(a1, a2, a0);
        if (--left == 0) break;
        turn(a2, a0, a1);
        if (--left == 0) break;
      } else {
        turn(a0, nullptr, a1);
        if (--left == 0) break;
        turn(a1, nullptr, a0);
        if (--left == 0) break;
      }
    }
  }
}

// One of `dilation` streams of the n channels of the block at `channel`, all output rows. False when too many positions are not
// whole.
template <int kTaps, int kRows, int kPixels>
bool run_stream(const depthwise_args& g, int channel, int n, int phase) {
  const int64_t columns = kTaps == 1 ? g.stride : g.stride == 1 ? g.dilation : 1;  // from a position to the next
  const int64_t between = kTaps == 1 || g.stride == 2 ? 1 : g.dilation;            // from an output to the next of the stream
  const int stride = kTaps == 1 ? 1 : static_cast<int>(g.stride);                  // positions
  const int all = static_cast<int>((g.pixels - phase + between - 1) / between);
  if (all <= 0) return true;
  Stream s{};
  s.phase = phase;
  s.outputs = (all + kPixels - 1) / kPixels;
  s.positions = (s.outputs - 1) * stride + kTaps;
  for (int i = 0, stored; i < kPixels; ++i) {
    stored = all - i * s.outputs;
    s.lacks[i] = s.outputs - (stored < 0 ? 0 : stored < s.outputs ? stored : s.outputs);
  }
  s.apart = s.outputs * stride * columns;
  s.position = columns * g.pixel;
  s.step = s.apart * g.pixel;
  s.output = between * g.ldc;
  s.part = s.outputs * s.output;
  // Positions whose first column lies left of the image, and those whose last one lies right of it.
  const int64_t first = g.first + phase, last = g.columns - 1 - 3 * g.shift - (kPixels - 1) * s.apart - first;
  const int64_t from = first < 0 ? (-first + columns - 1) / columns : 0;
  const auto whole_to = [&](int64_t last) {
    const int64_t to = last < 0 ? 0 : last / columns + 1;
    return static_cast<int>(to < s.whole_from ? s.whole_from : to < s.positions ? to : s.positions);
  };
  const bool masked = n < 64 / kPixels;
  s.whole_from = static_cast<int>(from < s.positions ? from : s.positions);
  s.whole_to = whole_to(last);
  if (kPixels == 1 && masked) {
    const int before = whole_to(last - 1);
    s.tail = before < s.whole_to;
    if (kRows == 4) s.whole_to = before;
  }
  if (s.whole_from + s.positions - s.whole_to > kEdges) return false;
  const __mmask64 k = lanes64(n);
  const Epilogue& e = *g.ep;
  const int col = g.col + channel;
  const int8_t* const b = g.b + channel / 64 * g.block;
  StreamArrays& a = *reinterpret_cast<StreamArrays*>(g.scratch);
  for (int j = 0; j < 4; ++j) {
    a.correction[j] = load_lanes<kPixels>(e.correction + col + 16 * j);
    a.scale[j] = _mm512_castsi512_ps(load_lanes<kPixels>(e.scale + col + 16 * j));
    a.bias[j] = _mm512_castsi512_ps(load_lanes<kPixels>(e.bias + col + 16 * j));
  }
  a.inv_scale = _mm512_set1_ps(e.inv_scale);
  a.top = _mm512_set1_ps(static_cast<float>(e.hi - e.zero_point));
  // What a store writes behind the block's channels belongs to the next pixel, which is computed later, but for the last row's.
  const bool overruns = kPixels == 1 && g.channels == g.ldc && g.pixels * g.ldc == g.ldr && between == 1;
  const auto go = [&](auto stride, auto fetches) __attribute__((always_inline)) {
    constexpr int kStride = decltype(stride)::value;
    constexpr bool kAhead = decltype(fetches)::value;
    const auto rows = [&](auto run, auto run_masked) __attribute__((always_inline)) {
      const int plain = !masked ? g.outputs : overruns ? g.outputs - 1 : 0;
      if (plain > 0) run(g, s, 0, plain, channel, b, k);
      if (plain < g.outputs) run_masked(g, s, plain, g.outputs, channel, b, k);
    };
    if (!e.bounded)
      stream<kTaps, kRows, kPixels, true, kStride, Clamp::floats, false>(g, s, 0, g.outputs, channel, b, k);
    else if (clamps_bytes(e))
      rows(stream<kTaps, kRows, kPixels, false, kStride, Clamp::bytes, kAhead>,
           stream<kTaps, kRows, kPixels, true, kStride, Clamp::bytes, kAhead>);
    else
      rows(stream<kTaps, kRows, kPixels, false, kStride, Clamp::none, kAhead>,
           stream<kTaps, kRows, kPixels, true, kStride, Clamp::none, kAhead>);
  };
  if constexpr (kRows == 3 && kTaps == 3) {
    const auto with = [&](auto fetches) __attribute__((always_inline)) {
      g.stride == 1 ? go(Constant<1>{}, fetches) : go(Constant<2>{}, fetches);
    };
    g.far ? with(Constant<true>{}) : with(Constant<false>{});
  } else {
    go(Constant<1>{}, Constant<false>{});
  }
  return true;
}

template <int kTaps, int kRows>
bool run_stream(const depthwise_args& g, int channel, int n) {
  const int phases = kTaps == 3 && g.stride == 1 ? static_cast<int>(g.dilation) : 1;
  for (int phase = 0; phase < phases; ++phase) {
    if (n > 32) {
      if (!run_stream<kTaps, kRows, 1>(g, channel, n, phase)) return false;
    } else if (n <= 16) {
      if (!run_stream<kTaps, kRows, 4>(g, channel, n, phase)) return false;
    } else {
      if (!run_stream<kTaps, kRows, 2>(g, channel, n, phase)) return false;
    }
  }
  return true;
}

}  // namespace

void depthwise_u8s8_1x64(const depthwise_args& g) {
  const bool bytes = g.ep->out == OutType::u8 || g.ep->out == OutType::s8;
  const bool three_dwords =
      g.taps == 3 && (g.shift ? g.stride == 1 : g.height <= 3 && (g.stride == 1 || (g.stride == 2 && g.dilation == 1)));
  const bool streams = bytes && g.bundles == 1 && g.splits == 1 && (g.taps == 1 || three_dwords);
  const int together = g.below && g.advance == 1 && g.outputs > 1 ? 2 : 1;
  // Few channels leave many lanes of a block idle, but for 32, two pixels of which fill a register. A natural row's arrays are
  // put in order once a call.
  const bool natural = streams && g.taps == 3 && g.stride == 1 && g.dilation == 1 && !g.shift && g.ep->bounded &&
                       g.channels >= 16 && g.channels <= 48 && g.channels != 32 && g.pixel == g.channels && g.ldc == g.channels &&
                       g.pixels * g.channels >= 64 && g.outputs * g.pixels >= 32;
  int32_t* const offsets = reinterpret_cast<int32_t*>(g.scratch);
  const auto lines_from = [](const Plan& p) { return (static_cast<ptrdiff_t>(p.lines) * p.taps * 4 + 63) / 64 * 64; };
  Plan p = plan_of(g, false);
  ptrdiff_t used = lines_from(p);
  if (natural && run_natural(g, p, together, offsets, g.scratch + used, g.scratch_bytes - used)) return;
  Layout l;
  lay_out(g, p, false, 64, 1, together * g.advance, g.scratch_bytes - used, 1, l);
  int8_t* weights = nullptr;
  if (!streams && g.advance == 2 && g.stride == 2 && g.dilation == 1 && g.shift == 0 && g.taps > 1) {
    const Plan tiled = plan_of(g, true);
    const ptrdiff_t at = lines_from(tiled), behind = at + static_cast<ptrdiff_t>(g.splits) * tiled.lines * tiled.taps * 256;
    Layout tiled_layout;
    if (lay_out(g, tiled, false, 64, 1, g.advance, g.scratch_bytes - behind, 8, tiled_layout)) {
      p = tiled;
      l = tiled_layout;
      weights = reinterpret_cast<int8_t*>(g.scratch + at);
      used = behind;
    }
  }
  // A last block whose stores overrun comes first: others then overwrite what it leaves behind its channels.
  const int whole = g.channels / 64 * 64, rest = g.channels - whole, turned = rest > 32 ? 64 : 0;
  for (int i = -turned; i < g.channels - turned; i += 64) {
    const int channel = i < 0 ? whole : i, n = g.channels - channel < 64 ? g.channels - channel : 64;
    if (streams && (g.taps == 1 ? run_stream<1, 4>(g, channel, n)
                    : g.shift   ? run_stream<3, 4>(g, channel, n)
                                : run_stream<3, 3>(g, channel, n)))
      continue;
    const int8_t* const b = g.b + channel / 64 * g.block;
    if (weights) tile_weights(g, p, b, weights);
    Tiles s{};
    s.b = weights ? weights : b;
    if (bytes && g.splits == 1 && n <= 32 && g.pixels >= 4 && g.outputs * g.pixels >= 16 &&
        (n <= 16 ? run_parts<4> : run_parts<2>)(g, p, s.b, channel, n, together, offsets, g.scratch + used,
                                                g.scratch_bytes - used))
      continue;
    s.tap_bytes = 256;
    s.below = g.below;
    s.correction = g.ep->correction + g.col + channel;
    s.scale = g.ep->scale + g.col + channel;
    s.bias = g.ep->bias + g.col + channel;
    run<false>(g, p, l, s, channel, n, together, offsets, g.scratch + used);
  }
}

}  // namespace avx512vnni
}  // namespace qgemm
