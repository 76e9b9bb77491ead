#include "kernels/epilogue__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {

void sum_pool_u8s32_1x32(const sum_pool_args& g) {
  for (int c = 0; c < g.channels; c += 32) {
    const int left = g.channels - c;
    const __mmask32 k = left >= 32 ? ~0u : (1u << left) - 1u;
    __m512i lo = _mm512_setzero_si512(), hi = _mm512_setzero_si512();
    for (int t = 0; t < g.taps;) {
      // 257 * 255 is the largest sum that 16 bits hold.
      const int end = g.taps - t > 257 ? t + 257 : g.taps;
      __m512i words = _mm512_setzero_si512();
      for (; t < end; ++t) words = _mm512_add_epi16(words, _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(k, g.a[t] + c)));
      lo = _mm512_add_epi32(lo, _mm512_cvtepu16_epi32(_mm512_castsi512_si256(words)));
      hi = _mm512_add_epi32(hi, _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(words, 1)));
    }
    _mm512_mask_storeu_epi32(g.sum + c, static_cast<__mmask16>(k), lo);
    if (left > 16) _mm512_mask_storeu_epi32(g.sum + c + 16, static_cast<__mmask16>(k >> 16), hi);
  }
}

}  // namespace avx512vnni
}  // namespace qgemm
