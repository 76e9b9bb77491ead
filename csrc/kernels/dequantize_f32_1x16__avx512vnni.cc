#include "kernels/epilogue__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {

namespace {

template <int kBytes, bool kSigned>
void run(const dequantize_args& g) {
  const __m512 scale = _mm512_set1_ps(g.scale);
  const __m512i zp = _mm512_set1_epi32(g.zero_point);
  const char* p = static_cast<const char*>(g.q);
  for (ptrdiff_t i = 0; i < g.n; i += 16) {
    const __mmask16 k = lanes16(g.n - i < 16 ? static_cast<int>(g.n - i) : 16);
    __m512i q;
    if (kBytes == 1) {
      const __m128i b = _mm_maskz_loadu_epi8(k, p + i);
      q = kSigned ? _mm512_cvtepi8_epi32(b) : _mm512_cvtepu8_epi32(b);
    } else {
      const __m256i w = _mm256_maskz_loadu_epi16(k, p + 2 * i);
      q = kSigned ? _mm512_cvtepi16_epi32(w) : _mm512_cvtepu16_epi32(w);
    }
    const __m512 x = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(q, zp)), scale);
    if (k == 0xffff)
      _mm512_storeu_ps(g.x + i, x);
    else
      _mm512_mask_storeu_ps(g.x + i, k, x);
  }
}

}  // namespace

void dequantize_f32_1x16(const dequantize_args& g) {
  if (g.bytes == 1)
    g.is_signed ? run<1, true>(g) : run<1, false>(g);
  else
    g.is_signed ? run<2, true>(g) : run<2, false>(g);
}

}  // namespace avx512vnni
}  // namespace qgemm
