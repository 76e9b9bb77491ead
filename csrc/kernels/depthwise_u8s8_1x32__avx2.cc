// Depthwise convolution, 32 channels a step. Four taps are interleaved so that a dword holds four taps of one channel (two levels
// of in-lane unpacks). vpmaddubsw would saturate its 16-bit sums, so even and odd taps are widened to 16 bits and multiplied with
// vpmaddwd, which is exact.
#include "kernels/epilogue__avx2.h"

namespace qgemm {
namespace avx2 {
namespace {

// n (0..32) bytes, the rest 0. A masked load reads whole dwords only; up to three more bytes join by hand.
QGEMM_INLINE __m256i load32(const uint8_t* p, int n) {
  if (n == 32) return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  const int words = n / 4;
  __m256i v = _mm256_maskload_epi32(reinterpret_cast<const int*>(p), mask8(words));
  if (n % 4) {
    uint32_t last = p[4 * words];
    if (n % 4 > 1) last |= static_cast<uint32_t>(p[4 * words + 1]) << 8;
    if (n % 4 > 2) last |= static_cast<uint32_t>(p[4 * words + 2]) << 16;
    const __m256i here = _mm256_cmpeq_epi32(_mm256_set1_epi32(words), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    v = _mm256_or_si256(v, _mm256_and_si256(here, _mm256_set1_epi32(static_cast<int>(last))));
  }
  return v;
}

// n bytes of a row in one column, or padding.
QGEMM_INLINE __m256i load_row(const depthwise_args& g, const uint8_t* row, int64_t column, int n) {
  if (column < 0 || column >= g.columns) return _mm256_set1_epi8(static_cast<char>(g.padding));
  return load32(row + column * g.pixel, n);
}

// The four rows of a bundle in one column. v[j], lane i: channels 16i + 4j + 0..3.
QGEMM_INLINE void interleave(const depthwise_args& g, const uint8_t* const* rows, int64_t column, int channel, int n,
                             __m256i* v) {
  const __m256i t0 = load_row(g, rows[0] + channel, column, n);
  const __m256i t1 = load_row(g, rows[1] + channel, column + g.shift, n);
  const __m256i t2 = load_row(g, rows[2] + channel, column + 2 * g.shift, n);
  const __m256i t3 = load_row(g, rows[3] + channel, column + 3 * g.shift, n);
  const __m256i lo01 = _mm256_unpacklo_epi8(t0, t1), hi01 = _mm256_unpackhi_epi8(t0, t1);
  const __m256i lo23 = _mm256_unpacklo_epi8(t2, t3), hi23 = _mm256_unpackhi_epi8(t2, t3);
  v[0] = _mm256_unpacklo_epi16(lo01, lo23);
  v[1] = _mm256_unpackhi_epi16(lo01, lo23);
  v[2] = _mm256_unpacklo_epi16(hi01, hi23);
  v[3] = _mm256_unpackhi_epi16(hi01, hi23);
}

// Output pixel x of row o, half `h` of a block of 64 in steps of 32 channels; `channels` of them valid.
QGEMM_INLINE void pixel(const depthwise_args& g, const Epilogue& e, int o, int x, int h, int channels, char* c) {
  const int first = g.col + h / 2 * 64 + h % 2 * 8;  // in the permuted order register j of a half starts at 16j + 8 (h % 2)
  __m256i acc[4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) acc[j] = load8(e.correction + first + 16 * j);
  const int8_t* b = g.b + h / 2 * g.block + h % 2 * 32;
  for (int s = 0; s < g.splits; ++s)
    for (int q = 0; q < g.bundles; ++q) {
      int64_t column = g.first + x * g.stride;
      for (int t = 0; t < g.taps; ++t, b += 256, column += g.dilation) {
        __m256i v[4];
        interleave(g, g.rows + o * g.advance + 4 * q, column, 32 * h, channels, v);
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
          const __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b + 64 * j));
          const __m256i w_even = _mm256_srai_epi16(_mm256_slli_epi16(w, 8), 8), w_odd = _mm256_srai_epi16(w, 8);
          const __m256i v_even = _mm256_and_si256(v[j], _mm256_set1_epi16(0xff)), v_odd = _mm256_srli_epi16(v[j], 8);
          acc[j] = _mm256_add_epi32(acc[j], _mm256_add_epi32(_mm256_madd_epi16(v_even, w_even), _mm256_madd_epi16(v_odd, w_odd)));
        }
      }
    }
  if (e.out == OutType::u8 || e.out == OutType::s8) {
    __m256i q[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const int n = first + 16 * j;
      q[j] = to_grid(e, _mm256_fmadd_ps(_mm256_cvtepi32_ps(acc[j]), _mm256_loadu_ps(e.scale + n), _mm256_loadu_ps(e.bias + n)));
    }
    // The in-lane packs undo the order of the in-lane unpacks.
    const __m256i zp = _mm256_set1_epi16(static_cast<short>(e.zero_point));
    const __m256i w01 = _mm256_adds_epi16(_mm256_packs_epi32(q[0], q[1]), zp);
    const __m256i w23 = _mm256_adds_epi16(_mm256_packs_epi32(q[2], q[3]), zp);
    __m256i bytes = _mm256_max_epu8(_mm256_packus_epi16(w01, w23), _mm256_set1_epi8(static_cast<char>(e.lo)));
    if (e.out == OutType::s8) bytes = _mm256_xor_si256(bytes, _mm256_set1_epi8(static_cast<char>(0x80)));
    if (channels == 32) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(c), bytes);
    } else {
      const int whole = channels / 4;
      _mm256_maskstore_epi32(reinterpret_cast<int*>(c), mask8(whole), bytes);
      if (channels % 4) {
        uint8_t tail[32];
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(tail), bytes);
        for (int i = 4 * whole; i < channels; ++i) c[i] = static_cast<char>(tail[i]);
      }
    }
    return;
  }
  int32_t words[32];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    __m256i r = acc[j];
    if (e.out == OutType::f32) {
      const int n = first + 16 * j;
      const __m256 y = _mm256_fmadd_ps(_mm256_cvtepi32_ps(r), _mm256_loadu_ps(e.scale + n), _mm256_loadu_ps(e.bias + n));
      r = _mm256_castps_si256(_mm256_min_ps(_mm256_max_ps(y, _mm256_set1_ps(e.f_lo)), _mm256_set1_ps(e.f_hi)));
    }
    _mm_storeu_si128(reinterpret_cast<__m128i*>(words + 4 * j), _mm256_castsi256_si128(r));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(words + 16 + 4 * j), _mm256_extracti128_si256(r, 1));
  }
  memcpy(c, words, static_cast<size_t>(channels) * 4);
}

}  // namespace

void depthwise_u8s8_1x32(const depthwise_args& g) {
  const Epilogue e = *g.ep;
  const int size = out_bytes(e.out);
  for (int o = 0; o < g.outputs; ++o)
    for (int h = 0; 32 * h < g.channels; ++h) {
      const int channels = g.channels - 32 * h < 32 ? g.channels - 32 * h : 32;
      char* c = static_cast<char*>(g.c) + o * g.ldr + 32 * h * size;
      for (int x = 0; x < g.pixels; ++x, c += g.ldc) pixel(g, e, o, x, h, channels, c);
    }
}

}  // namespace avx2
}  // namespace qgemm
