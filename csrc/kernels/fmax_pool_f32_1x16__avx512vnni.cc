// vmaxps gives its second operand where either is NaN, and where both are zeros: the maximum so far, which is never NaN.
#include "kernels/epilogue__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {

void fmax_pool_f32_1x16(const fmax_pool_args& g) {
  for (int c = 0; c < g.channels; c += 16) {
    const __mmask16 lanes = lanes16(g.channels - c < 16 ? g.channels - c : 16);
    __m512 m = _mm512_set1_ps(-__builtin_inff());
    __mmask16 nan = 0;
    for (int t = 0; t < g.taps; ++t) {
      const __m512 x = _mm512_maskz_loadu_ps(lanes, g.a[t] + c);
      nan = static_cast<__mmask16>(nan | _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q));
      m = _mm512_max_ps(x, m);
    }
    _mm512_mask_storeu_ps(g.out + c, lanes, _mm512_mask_blend_ps(nan, m, _mm512_set1_ps(__builtin_nanf(""))));
  }
}

}  // namespace avx512vnni
}  // namespace qgemm
