#include "kernels/epilogue__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {

void mix_f32u8_1x16(const mix_args& g) {
  const __m512 inv_scale = _mm512_set1_ps(g.inv_scale), top = _mm512_set1_ps(static_cast<float>(g.hi - g.zero_point));
  const __m512i zero_point = _mm512_set1_epi32(g.zero_point), lo = _mm512_set1_epi32(g.lo);
  const __m512i words = _mm512_set1_epi16(static_cast<short>(g.zero_point)), bytes_lo = _mm512_set1_epi8(static_cast<char>(g.lo));
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  for (ptrdiff_t p = 0; p < g.pixels; ++p) {
    const float *left = g.f + g.left[p] * g.channels, *right = g.f + g.right[p] * g.channels;
    const __m512 wl = _mm512_set1_ps(g.wl[p]), wr = _mm512_set1_ps(g.wr[p]);
    uint8_t* out = g.out + p * g.channels;
    // vcvtps2dq turns every overflow into INT_MIN, so the upper bound is applied in float.
    const auto quantized = [&](__m512 l, __m512 r) {
      const __m512 y = _mm512_mul_ps(_mm512_add_ps(_mm512_mul_ps(l, wl), _mm512_mul_ps(r, wr)), inv_scale);
      return _mm512_cvtps_epi32(_mm512_min_ps(y, top));
    };
    const auto at = [&](ptrdiff_t c) { return quantized(_mm512_loadu_ps(left + c), _mm512_loadu_ps(right + c)); };
    ptrdiff_t c = 0;
    for (; c + 64 <= g.channels; c += 64) {
      const __m512i w01 = _mm512_adds_epi16(_mm512_packs_epi32(at(c), at(c + 16)), words),
                    w23 = _mm512_adds_epi16(_mm512_packs_epi32(at(c + 32), at(c + 48)), words);
      const __m512i q = _mm512_max_epu8(_mm512_permutexvar_epi32(order, _mm512_packus_epi16(w01, w23)), bytes_lo);
      _mm512_storeu_si512(out + c, q);
    }
    for (; c < g.channels; c += 16) {
      const __mmask16 m = lanes16(g.channels - c < 16 ? static_cast<int>(g.channels - c) : 16);
      __m512i q = quantized(_mm512_maskz_loadu_ps(m, left + c), _mm512_maskz_loadu_ps(m, right + c));
      // INT_MIN plus a zero point stays below lo.
      q = _mm512_max_epi32(_mm512_add_epi32(q, zero_point), lo);
      _mm_mask_storeu_epi8(out + c, m, _mm512_cvtepi32_epi8(q));
    }
  }
}

}  // namespace avx512vnni
}  // namespace qgemm
