#include "kernels/epilogue__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {

void minmax_f32_1x16(const minmax_args& g) {
  __m512 lo = _mm512_setzero_ps(), hi = _mm512_setzero_ps();
  // Without the sign bit, floats order as integers and everything from 0x7f800000 up is infinite or NaN.
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  __m512i top = _mm512_setzero_si512();
  for (ptrdiff_t i = 0; i < g.n; i += 16) {
    const __mmask16 k = lanes16(g.n - i < 16 ? static_cast<int>(g.n - i) : 16);
    const __m512 x = _mm512_maskz_loadu_ps(k, g.x + i);
    lo = _mm512_min_ps(x, lo);
    hi = _mm512_max_ps(x, hi);
    top = _mm512_max_epi32(top, _mm512_and_si512(_mm512_castps_si512(x), magnitude));
  }
  const bool finite = _mm512_reduce_max_epi32(top) < 0x7f800000;
  *g.finite = finite;
  *g.min = finite ? _mm512_reduce_min_ps(lo) : 0.0f;
  *g.max = finite ? _mm512_reduce_max_ps(hi) : 0.0f;
}

}  // namespace avx512vnni
}  // namespace qgemm
