// vmaxps gives its second operand where either is NaN, and where both are zeros: the maximum so far, which is never NaN.
#include "kernels/epilogue__avx2.h"

namespace qgemm {
namespace avx2 {

void fmax_pool_f32_1x8(const fmax_pool_args& g) {
  for (int c = 0; c < g.channels; c += 8) {
    const __m256i lanes = mask8(g.channels - c);
    __m256 m = _mm256_set1_ps(-__builtin_inff()), nan = _mm256_setzero_ps();
    for (int t = 0; t < g.taps; ++t) {
      const __m256 x = _mm256_maskload_ps(g.a[t] + c, lanes);
      nan = _mm256_or_ps(nan, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
      m = _mm256_max_ps(x, m);
    }
    _mm256_maskstore_ps(g.out + c, lanes, _mm256_blendv_ps(m, _mm256_set1_ps(__builtin_nanf("")), nan));
  }
}

}  // namespace avx2
}  // namespace qgemm
