#include "kernels/epilogue__avx2.h"

namespace qgemm {
namespace avx2 {

void sum_pool_u8s32_1x16(const sum_pool_args& g) {
  int c = 0;
  for (; c + 16 <= g.channels; c += 16) {
    __m256i lo = _mm256_setzero_si256(), hi = _mm256_setzero_si256();
    for (int t = 0; t < g.taps;) {
      // 257 * 255 is the largest sum that 16 bits hold.
      const int end = g.taps - t > 257 ? t + 257 : g.taps;
      __m256i words = _mm256_setzero_si256();
      for (; t < end; ++t)
        words = _mm256_add_epi16(words, _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(g.a[t] + c))));
      lo = _mm256_add_epi32(lo, _mm256_cvtepu16_epi32(_mm256_castsi256_si128(words)));
      hi = _mm256_add_epi32(hi, _mm256_cvtepu16_epi32(_mm256_extracti128_si256(words, 1)));
    }
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(g.sum + c), lo);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(g.sum + c + 8), hi);
  }
  for (; c < g.channels; ++c) {
    int32_t s = 0;
    for (int t = 0; t < g.taps; ++t) s += g.a[t][c];
    g.sum[c] = s;
  }
}

}  // namespace avx2
}  // namespace qgemm
