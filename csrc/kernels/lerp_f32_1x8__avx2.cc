#include "kernels/epilogue__avx2.h"

namespace qgemm {
namespace avx2 {

void lerp_f32_1x8(const lerp_args& given) {
  const lerp_args g = given;  // in registers: floats that are stored might alias what is behind a reference
  const __m256 wa = _mm256_set1_ps(g.wa), wb = _mm256_set1_ps(g.wb);
  ptrdiff_t i = 0;
  for (; i + 8 <= g.n; i += 8)
    _mm256_storeu_ps(g.f + i,
                     _mm256_add_ps(_mm256_mul_ps(_mm256_loadu_ps(g.a + i), wa), _mm256_mul_ps(_mm256_loadu_ps(g.b + i), wb)));
  if (i < g.n) {
    const __m256i m = mask8(static_cast<int>(g.n - i));
    const __m256 a = _mm256_maskload_ps(g.a + i, m), b = _mm256_maskload_ps(g.b + i, m);
    _mm256_maskstore_ps(g.f + i, m, _mm256_add_ps(_mm256_mul_ps(a, wa), _mm256_mul_ps(b, wb)));
  }
}

}  // namespace avx2
}  // namespace qgemm
