#include "kernels/epilogue__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {

void quantize_f32_1x16(const quantize_args& g) {
  const __m512 inv = _mm512_set1_ps(g.inv_scale);
  const __m512 lo = _mm512_set1_ps(static_cast<float>(g.qmin - g.zero_point));
  const __m512 hi = _mm512_set1_ps(static_cast<float>(g.qmax - g.zero_point));
  const __m512i zp = _mm512_set1_epi32(g.zero_point);
  const bool bytes = g.bytes == 1;
  uint8_t* q8 = static_cast<uint8_t*>(g.q);
  uint16_t* q16 = static_cast<uint16_t*>(g.q);
  for (ptrdiff_t i = 0; i < g.n; i += 16) {
    const __mmask16 k = lanes16(g.n - i < 16 ? static_cast<int>(g.n - i) : 16);
    __m512 t = _mm512_mul_ps(_mm512_maskz_loadu_ps(k, g.x + i), inv);
    t = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(t, t, _CMP_ORD_Q), t);  // NaN is zero on the grid
    t = _mm512_max_ps(_mm512_min_ps(t, hi), lo);
    const __m512i q = _mm512_add_epi32(_mm512_cvtps_epi32(t), zp);
    if (bytes) {
      const __m128i b = _mm512_cvtepi32_epi8(q);
      if (k == 0xffff)
        _mm_storeu_si128(reinterpret_cast<__m128i*>(q8 + i), b);
      else
        _mm_mask_storeu_epi8(q8 + i, k, b);
    } else {
      const __m256i w = _mm512_cvtepi32_epi16(q);
      if (k == 0xffff)
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(q16 + i), w);
      else
        _mm256_mask_storeu_epi16(q16 + i, k, w);
    }
  }
}

}  // namespace avx512vnni
}  // namespace qgemm
