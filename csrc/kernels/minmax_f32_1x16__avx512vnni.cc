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
  float l[16], h[16];
  int32_t m[16];
  _mm512_storeu_ps(l, lo);
  _mm512_storeu_ps(h, hi);
  _mm512_storeu_si512(m, top);
  float min = 0.0f, max = 0.0f;
  bool finite = true;
  for (int j = 0; j < 16; ++j) {
    min = l[j] < min ? l[j] : min;
    max = h[j] > max ? h[j] : max;
    finite = finite && m[j] < 0x7f800000;
  }
  *g.finite = finite;
  *g.min = finite ? min : 0.0f;
  *g.max = finite ? max : 0.0f;
}

}  // namespace avx512vnni
}  // namespace qgemm
