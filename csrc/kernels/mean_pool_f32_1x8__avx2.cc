#include "kernels/epilogue__avx2.h"

namespace qgemm {
namespace avx2 {

void mean_pool_f32_1x8(const mean_pool_args& g) {
  const __m256d count = _mm256_set1_pd(g.count);
  for (int c = 0; c < g.channels; c += 8) {
    const __m256i lanes = mask8(g.channels - c);
    __m256d low = _mm256_setzero_pd(), high = _mm256_setzero_pd();
    for (int t = 0; t < g.taps; ++t) {
      const __m256 x = _mm256_maskload_ps(g.a[t] + c, lanes);
      __m256d a = _mm256_cvtps_pd(_mm256_castps256_ps128(x)), b = _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1));
      if (g.squares) a = _mm256_mul_pd(a, a), b = _mm256_mul_pd(b, b);
      low = _mm256_add_pd(low, a);
      high = _mm256_add_pd(high, b);
    }
    const __m128 first = _mm256_cvtpd_ps(_mm256_div_pd(low, count)), second = _mm256_cvtpd_ps(_mm256_div_pd(high, count));
    const __m256 y = _mm256_set_m128(second, first);
    _mm256_maskstore_ps(g.out + c, lanes,
                        _mm256_blendv_ps(y, _mm256_set1_ps(__builtin_nanf("")), _mm256_cmp_ps(y, y, _CMP_UNORD_Q)));
  }
}

}  // namespace avx2
}  // namespace qgemm
