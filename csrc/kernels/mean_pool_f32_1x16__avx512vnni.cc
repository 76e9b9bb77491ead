#include "kernels/epilogue__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {

void mean_pool_f32_1x16(const mean_pool_args& g) {
  const __m512d count = _mm512_set1_pd(g.count);
  for (int c = 0; c < g.channels; c += 16) {
    const int n = g.channels - c < 16 ? g.channels - c : 16;
    const __mmask16 lanes = lanes16(n);
    __m512d low = _mm512_setzero_pd(), high = _mm512_setzero_pd();
    for (int t = 0; t < g.taps; ++t) {
      const __m512 x = _mm512_maskz_loadu_ps(lanes, g.a[t] + c);
      __m512d a = _mm512_cvtps_pd(_mm512_castps512_ps256(x)), b = _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1));
      if (g.squares) a = _mm512_mul_pd(a, a), b = _mm512_mul_pd(b, b);
      low = _mm512_add_pd(low, a);
      high = _mm512_add_pd(high, b);
    }
    const __m256 first = _mm512_cvtpd_ps(_mm512_div_pd(low, count)), second = _mm512_cvtpd_ps(_mm512_div_pd(high, count));
    const __m512 y = _mm512_insertf32x8(_mm512_castps256_ps512(first), second, 1);
    const __mmask16 nan = _mm512_cmp_ps_mask(y, y, _CMP_UNORD_Q);
    _mm512_mask_storeu_ps(g.out + c, lanes, _mm512_mask_blend_ps(nan, y, _mm512_set1_ps(__builtin_nanf(""))));
  }
}

}  // namespace avx512vnni
}  // namespace qgemm
