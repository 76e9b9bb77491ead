#include "kernels/epilogue__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {
namespace {

// 256 * hi + lo + correction of 8 columns. Every term is an integer below 2^53, so fp64 holds the exact sum; one rounding to
// fp32.
QGEMM_INLINE __m256 combine8(const int32_t* hi, const int32_t* lo, const double* correction) {
  const __m512d h = _mm512_cvtepi32_pd(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(hi)));
  const __m512d l = _mm512_cvtepi32_pd(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(lo)));
  return _mm512_cvtpd_ps(_mm512_add_pd(_mm512_fmadd_pd(h, _mm512_set1_pd(256.0), l), _mm512_loadu_pd(correction)));
}

}  // namespace

void combine16_s32f32_1x16(const combine16_args& g) {
  for (int i = 0; i < g.m; ++i) {
    const int32_t *hi = g.sums + static_cast<ptrdiff_t>(i) * 2 * g.width, *lo = hi + g.width;
    float* c = reinterpret_cast<float*>(reinterpret_cast<char*>(g.c) + i * g.ldc);
    for (int j = 0; j < g.n; j += 16) {
      const __m512 acc = _mm512_insertf32x8(_mm512_castps256_ps512(combine8(hi + j, lo + j, g.correction + j)),
                                            combine8(hi + j + 8, lo + j + 8, g.correction + j + 8), 1);
      __m512 y = _mm512_fmadd_ps(acc, _mm512_loadu_ps(g.scale + j), _mm512_loadu_ps(g.bias + j));
      y = _mm512_min_ps(_mm512_max_ps(y, _mm512_set1_ps(g.f_lo)), _mm512_set1_ps(g.f_hi));
      _mm512_mask_storeu_ps(c + j, lanes16(g.n - j < 16 ? g.n - j : 16), y);
    }
  }
}

}  // namespace avx512vnni
}  // namespace qgemm
