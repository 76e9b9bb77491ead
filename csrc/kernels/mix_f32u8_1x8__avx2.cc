#include "kernels/epilogue__avx2.h"

namespace qgemm {
namespace avx2 {

void mix_f32u8_1x8(const mix_args& g) {
  const __m256 inv_scale = _mm256_set1_ps(g.inv_scale), top = _mm256_set1_ps(static_cast<float>(g.hi - g.zero_point));
  const __m256i zero_point = _mm256_set1_epi32(g.zero_point), lo = _mm256_set1_epi32(g.lo);
  for (ptrdiff_t p = 0; p < g.pixels; ++p) {
    const float *left = g.f + g.left[p] * g.channels, *right = g.f + g.right[p] * g.channels;
    const __m256 wl = _mm256_set1_ps(g.wl[p]), wr = _mm256_set1_ps(g.wr[p]);
    uint8_t* out = g.out + p * g.channels;
    // vcvtps2dq turns every overflow into INT_MIN, which plus a zero point stays below lo; the upper bound is applied in float.
    const auto quantized = [&](const float* l, const float* r, uint8_t* to) {
      const __m256 y =
          _mm256_mul_ps(_mm256_add_ps(_mm256_mul_ps(_mm256_loadu_ps(l), wl), _mm256_mul_ps(_mm256_loadu_ps(r), wr)), inv_scale);
      const __m256i q = _mm256_max_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(_mm256_min_ps(y, top)), zero_point), lo);
      const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
      _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packus_epi16(words, words));
    };
    ptrdiff_t c = 0;
    for (; c + 8 <= g.channels; c += 8) quantized(left + c, right + c, out + c);
    if (c < g.channels) {
      const size_t rest = static_cast<size_t>(g.channels - c);
      float l[8] = {}, r[8] = {};
      uint8_t q[8];
      memcpy(l, left + c, 4 * rest);
      memcpy(r, right + c, 4 * rest);
      quantized(l, r, q);
      memcpy(out + c, q, rest);
    }
  }
}

}  // namespace avx2
}  // namespace qgemm
