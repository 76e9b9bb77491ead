#include "kernels/epilogue__avx2.h"

namespace qgemm {
namespace avx2 {

namespace {

template <int kBytes, bool kSigned>
QGEMM_INLINE __m256i widen8(const char* p) {
  if (kBytes == 1) {
    const __m128i b = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    return kSigned ? _mm256_cvtepi8_epi32(b) : _mm256_cvtepu8_epi32(b);
  }
  const __m128i w = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return kSigned ? _mm256_cvtepi16_epi32(w) : _mm256_cvtepu16_epi32(w);
}

template <int kBytes, bool kSigned>
void run(const dequantize_args& g) {
  const __m256 scale = _mm256_set1_ps(g.scale);
  const __m256i zp = _mm256_set1_epi32(g.zero_point);
  const char* p = static_cast<const char*>(g.q);
  ptrdiff_t i = 0;
  for (; i + 8 <= g.n; i += 8) {
    const __m256i q = _mm256_sub_epi32(widen8<kBytes, kSigned>(p + kBytes * i), zp);
    _mm256_storeu_ps(g.x + i, _mm256_mul_ps(_mm256_cvtepi32_ps(q), scale));
  }
  if (i < g.n) {
    const int left = static_cast<int>(g.n - i);
    char tail[16] = {};
    memcpy(tail, p + kBytes * i, static_cast<size_t>(kBytes * left));
    const __m256i q = _mm256_sub_epi32(widen8<kBytes, kSigned>(tail), zp);
    _mm256_maskstore_ps(g.x + i, mask8(left), _mm256_mul_ps(_mm256_cvtepi32_ps(q), scale));
  }
}

}  // namespace

void dequantize_f32_1x8(const dequantize_args& g) {
  if (g.bytes == 1)
    g.is_signed ? run<1, true>(g) : run<1, false>(g);
  else
    g.is_signed ? run<2, true>(g) : run<2, false>(g);
}

}  // namespace avx2
}  // namespace qgemm
