#include "kernels/epilogue__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {

void lerp_u8f32_1x16(const lerp_args& g) {
  const __m512 scale = _mm512_set1_ps(g.scale), wa = _mm512_set1_ps(g.wa), wb = _mm512_set1_ps(g.wb);
  const __m512i zero = _mm512_set1_epi32(g.zero_point);
  const auto real = [&](__m128i q) {
    return _mm512_mul_ps(scale, _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_cvtepu8_epi32(q), zero)));
  };
  for (ptrdiff_t i = 0; i < g.n; i += 16) {
    const __mmask16 m = lanes16(g.n - i < 16 ? static_cast<int>(g.n - i) : 16);
    const __m512 a = real(_mm_maskz_loadu_epi8(m, g.a + i)), b = real(_mm_maskz_loadu_epi8(m, g.b + i));
    _mm512_mask_storeu_ps(g.f + i, m, _mm512_add_ps(_mm512_mul_ps(a, wa), _mm512_mul_ps(b, wb)));
  }
}

}  // namespace avx512vnni
}  // namespace qgemm
