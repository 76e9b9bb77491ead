// Averages of windows, 16 channels a step. Bytes widen to 16 bits, which hold the sum of 257 of them, and those to 32.
#include "kernels/epilogue__avx2.h"

namespace qgemm {
namespace avx2 {
namespace {

constexpr int kMostWords = 257;

QGEMM_INLINE __m256i load_words(const uint8_t* p, size_t n) {
  if (n >= 16) return _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  uint8_t last[16] = {};
  memcpy(last, p, n);
  return _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(last)));
}

// 8 sums less their zero points to the output grid.
QGEMM_INLINE __m256i to_grid8(const average_pool_args& g, __m256i acc, __m256 scale) {
  const __m256 t = _mm256_mul_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(acc), scale), _mm256_set1_ps(g.inv_scale));
  // vcvtps2dq turns every overflow into INT_MIN, so the upper bound is applied in float.
  const __m256i q = _mm256_cvtps_epi32(_mm256_min_ps(t, _mm256_set1_ps(static_cast<float>(g.hi - g.zero_point))));
  return _mm256_max_epi32(_mm256_add_epi32(q, _mm256_set1_epi32(g.zero_point)), _mm256_set1_epi32(g.lo));
}

}  // namespace

void average_pool_u8_1x16(const average_pool_args& g) {
  for (int64_t x = 0; x < g.pixels; ++x) {
    int64_t column = g.first + x * g.stride;
    int from = 0, to = g.taps;  // the taps that lie inside
    while (from < to && column + from * g.dilation < 0) ++from;
    while (from < to && column + (to - 1) * g.dilation >= g.columns) --to;
    column += from * g.dilation;
    const int covered = to - from;
    const ptrdiff_t step = g.dilation * g.pixel;
    const __m256i less = _mm256_set1_epi32(static_cast<int>(int64_t(g.height) * covered * g.x_zero_point));
    const __m256 scale = _mm256_set1_ps(g.scale[covered]);
    for (ptrdiff_t c = 0; c < g.channels; c += 16) {
      const size_t n = g.channels - c < 16 ? static_cast<size_t>(g.channels - c) : 16;
      __m256i lo = _mm256_setzero_si256(), hi = lo, words = lo;
      int room = kMostWords;
      const auto flush = [&]() __attribute__((always_inline)) {
        lo = _mm256_add_epi32(lo, _mm256_cvtepu16_epi32(_mm256_castsi256_si128(words)));
        hi = _mm256_add_epi32(hi, _mm256_cvtepu16_epi32(_mm256_extracti128_si256(words, 1)));
        words = _mm256_setzero_si256();
        room = kMostWords;
      };
      for (int r = 0; r < g.height; ++r) {
        const uint8_t* p = g.rows[r] + column * g.pixel + c;
        for (int t = 0; t < covered; ++t, p += step) {
          if (room == 0) flush();
          words = _mm256_add_epi16(words, load_words(p, n));
          --room;
        }
      }
      flush();
      const __m256i q0 = to_grid8(g, _mm256_sub_epi32(lo, less), scale), q1 = to_grid8(g, _mm256_sub_epi32(hi, less), scale);
      const __m256i w = _mm256_permute4x64_epi64(_mm256_packus_epi32(q0, q1), 0xd8);
      const __m128i bytes = _mm_xor_si128(_mm_packus_epi16(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1)),
                                          _mm_set1_epi8(static_cast<char>(g.flip)));
      if (n == 16) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(g.out + x * g.ldo + c), bytes);
      } else {
        uint8_t last[16];
        _mm_storeu_si128(reinterpret_cast<__m128i*>(last), bytes);
        memcpy(g.out + x * g.ldo + c, last, n);
      }
    }
  }
}

}  // namespace avx2
}  // namespace qgemm
