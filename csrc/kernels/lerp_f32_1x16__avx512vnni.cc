#include "kernels/epilogue__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {

void lerp_f32_1x16(const lerp_args& given) {
  const lerp_args g = given;  // in registers: floats that are stored might alias what is behind a reference
  const __m512 wa = _mm512_set1_ps(g.wa), wb = _mm512_set1_ps(g.wb);
  ptrdiff_t i = 0;
  for (; i + 16 <= g.n; i += 16)
    _mm512_storeu_ps(g.f + i,
                     _mm512_add_ps(_mm512_mul_ps(_mm512_loadu_ps(g.a + i), wa), _mm512_mul_ps(_mm512_loadu_ps(g.b + i), wb)));
  if (i < g.n) {
    const __mmask16 m = lanes16(static_cast<int>(g.n - i));
    const __m512 a = _mm512_maskz_loadu_ps(m, g.a + i), b = _mm512_maskz_loadu_ps(m, g.b + i);
    _mm512_mask_storeu_ps(g.f + i, m, _mm512_add_ps(_mm512_mul_ps(a, wa), _mm512_mul_ps(b, wb)));
  }
}

}  // namespace avx512vnni
}  // namespace qgemm
