#include "kernels/epilogue__avx2.h"

namespace qgemm {
namespace avx2 {
namespace {

// 256 * hi + lo + correction of 4 columns. Every term is an integer below 2^53, so fp64 holds the exact sum; one rounding to
// fp32.
QGEMM_INLINE __m128 combine4(const int32_t* hi, const int32_t* lo, const double* correction) {
  const __m256d h = _mm256_cvtepi32_pd(_mm_loadu_si128(reinterpret_cast<const __m128i*>(hi)));
  const __m256d l = _mm256_cvtepi32_pd(_mm_loadu_si128(reinterpret_cast<const __m128i*>(lo)));
  return _mm256_cvtpd_ps(_mm256_add_pd(_mm256_fmadd_pd(h, _mm256_set1_pd(256.0), l), _mm256_loadu_pd(correction)));
}

}  // namespace

void combine16_s32f32_1x8(const combine16_args& g) {
  for (int i = 0; i < g.m; ++i) {
    const int32_t *hi = g.sums + static_cast<ptrdiff_t>(i) * 2 * g.width, *lo = hi + g.width;
    float* c = reinterpret_cast<float*>(reinterpret_cast<char*>(g.c) + i * g.ldc);
    for (int j = 0; j < g.n; j += 8) {
      const __m256 acc = _mm256_insertf128_ps(_mm256_castps128_ps256(combine4(hi + j, lo + j, g.correction + j)),
                                              combine4(hi + j + 4, lo + j + 4, g.correction + j + 4), 1);
      __m256 y = _mm256_fmadd_ps(acc, _mm256_loadu_ps(g.scale + j), _mm256_loadu_ps(g.bias + j));
      y = _mm256_min_ps(_mm256_max_ps(y, _mm256_set1_ps(g.f_lo)), _mm256_set1_ps(g.f_hi));
      _mm256_maskstore_ps(c + j, mask8(g.n - j), y);
    }
  }
}

}  // namespace avx2
}  // namespace qgemm
