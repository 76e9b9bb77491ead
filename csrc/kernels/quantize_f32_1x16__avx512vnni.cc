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
  ptrdiff_t i = 0;
  if (bytes) {
    // 64 at a time: values are on the grid before they are packed, so the packs' saturation changes nothing.
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const bool is_signed = g.qmin < 0;
    for (; i + 64 <= g.n; i += 64) {
      __m512i q[4];
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        __m512 t = _mm512_mul_ps(_mm512_loadu_ps(g.x + i + 16 * j), inv);
        t = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(t, t, _CMP_ORD_Q), t);  // NaN is zero on the grid
        q[j] = _mm512_add_epi32(_mm512_cvtps_epi32(_mm512_max_ps(_mm512_min_ps(t, hi), lo)), zp);
      }
      const __m512i low = _mm512_packs_epi32(q[0], q[1]), high = _mm512_packs_epi32(q[2], q[3]);
      const __m512i b = is_signed ? _mm512_packs_epi16(low, high) : _mm512_packus_epi16(low, high);
      _mm512_storeu_si512(q8 + i, _mm512_permutexvar_epi32(order, b));
    }
  }
  for (; i < g.n; i += 16) {
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
