#include "kernels/epilogue__avx2.h"

namespace qgemm {
namespace avx2 {

void lerp_u8f32_1x8(const lerp_args& g) {
  const __m256 scale = _mm256_set1_ps(g.scale), wa = _mm256_set1_ps(g.wa), wb = _mm256_set1_ps(g.wb);
  const __m256i zero = _mm256_set1_epi32(g.zero_point);
  const auto real = [&](const uint8_t* p) {
    const __m256i q = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
    return _mm256_mul_ps(scale, _mm256_cvtepi32_ps(_mm256_sub_epi32(q, zero)));
  };
  ptrdiff_t i = 0;
  for (; i + 8 <= g.n; i += 8)
    _mm256_storeu_ps(g.f + i, _mm256_add_ps(_mm256_mul_ps(real(g.a + i), wa), _mm256_mul_ps(real(g.b + i), wb)));
  if (i < g.n) {
    const size_t left = static_cast<size_t>(g.n - i);
    uint8_t a[8] = {}, b[8] = {};
    float f[8];
    memcpy(a, g.a + i, left);
    memcpy(b, g.b + i, left);
    _mm256_storeu_ps(f, _mm256_add_ps(_mm256_mul_ps(real(a), wa), _mm256_mul_ps(real(b), wb)));
    memcpy(g.f + i, f, 4 * left);
  }
}

}  // namespace avx2
}  // namespace qgemm
