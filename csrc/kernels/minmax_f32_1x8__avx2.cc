#include "kernels/epilogue__avx2.h"

namespace qgemm {
namespace avx2 {

void minmax_f32_1x8(const minmax_args& g) {
  __m256 lo = _mm256_setzero_ps(), hi = _mm256_setzero_ps();
  // Without the sign bit, floats order as integers and everything from 0x7f800000 up is infinite or NaN.
  const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
  __m256i top = _mm256_setzero_si256();
  for (ptrdiff_t i = 0; i < g.n; i += 8) {
    const __m256 x = g.n - i >= 8 ? _mm256_loadu_ps(g.x + i) : _mm256_maskload_ps(g.x + i, mask8(static_cast<int>(g.n - i)));
    lo = _mm256_min_ps(x, lo);
    hi = _mm256_max_ps(x, hi);
    top = _mm256_max_epi32(top, _mm256_and_si256(_mm256_castps_si256(x), magnitude));
  }
  float l[8], h[8];
  int32_t m[8];
  _mm256_storeu_ps(l, lo);
  _mm256_storeu_ps(h, hi);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(m), top);
  float min = 0.0f, max = 0.0f;
  bool finite = true;
  for (int j = 0; j < 8; ++j) {
    min = l[j] < min ? l[j] : min;
    max = h[j] > max ? h[j] : max;
    finite = finite && m[j] < 0x7f800000;
  }
  *g.finite = finite;
  *g.min = finite ? min : 0.0f;
  *g.max = finite ? max : 0.0f;
}

}  // namespace avx2
}  // namespace qgemm
