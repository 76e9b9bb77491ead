#include "kernels/epilogue__avx2.h"

namespace qgemm {
namespace avx2 {

namespace {

struct Constants {
  __m256 inv, lo, hi;
  __m256i zp;
};

// 8 quantized values in the low bytes (or words) of the result.
QGEMM_INLINE __m128i quantize8(const Constants& k, __m256 x, bool bytes) {
  __m256 t = _mm256_mul_ps(x, k.inv);
  t = _mm256_and_ps(t, _mm256_cmp_ps(t, t, _CMP_ORD_Q));  // NaN is zero on the grid
  t = _mm256_max_ps(_mm256_min_ps(t, k.hi), k.lo);
  const __m256i q = _mm256_add_epi32(_mm256_cvtps_epi32(t), k.zp);
  // Truncation, not a saturating pack: the grid may be signed or unsigned.
  const __m256i low_bytes = _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0, 4, 8, 12, -1, -1, -1,
                                             -1, -1, -1, -1, -1, -1, -1, -1, -1);
  const __m256i low_words = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1, 0, 1, 4, 5, 8, 9, 12, 13,
                                             -1, -1, -1, -1, -1, -1, -1, -1);
  const __m256i p = _mm256_shuffle_epi8(q, bytes ? low_bytes : low_words);
  const __m128i a = _mm256_castsi256_si128(p), b = _mm256_extracti128_si256(p, 1);
  return bytes ? _mm_unpacklo_epi32(a, b) : _mm_unpacklo_epi64(a, b);
}

}  // namespace

void quantize_f32_1x8(const quantize_args& g) {
  Constants k;
  k.inv = _mm256_set1_ps(g.inv_scale);
  k.lo = _mm256_set1_ps(static_cast<float>(g.qmin - g.zero_point));
  k.hi = _mm256_set1_ps(static_cast<float>(g.qmax - g.zero_point));
  k.zp = _mm256_set1_epi32(g.zero_point);
  char* q = static_cast<char*>(g.q);
  ptrdiff_t i = 0;
  if (g.bytes == 1) {
    for (; i + 8 <= g.n; i += 8)
      _mm_storel_epi64(reinterpret_cast<__m128i*>(q + i), quantize8(k, _mm256_loadu_ps(g.x + i), true));
  } else {
    for (; i + 8 <= g.n; i += 8)
      _mm_storeu_si128(reinterpret_cast<__m128i*>(q + 2 * i), quantize8(k, _mm256_loadu_ps(g.x + i), false));
  }
  if (i < g.n) {
    const int left = static_cast<int>(g.n - i);
    char tail[16];
    _mm_storeu_si128(reinterpret_cast<__m128i*>(tail), quantize8(k, _mm256_maskload_ps(g.x + i, mask8(left)), g.bytes == 1));
    memcpy(q + i * g.bytes, tail, static_cast<size_t>(left) * static_cast<size_t>(g.bytes));
  }
}

}  // namespace avx2
}  // namespace qgemm
