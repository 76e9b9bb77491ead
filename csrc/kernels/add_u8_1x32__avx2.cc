#include "kernels/epilogue__avx2.h"

namespace qgemm {
namespace avx2 {

namespace {

struct Constants {
  __m256 a_scale, b_scale, inv_scale, top;
  __m256i a_zero_point, b_zero_point, zero_point, lo;
};

// 8 sums on the output grid, without the zero point. The product and the sum are rounded one by one, as the definition says.
QGEMM_INLINE __m256i sum8(const Constants& k, const uint8_t* a, const uint8_t* b) {
  const __m256i qa = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(a)));
  const __m256i qb = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(b)));
  const __m256 xa = _mm256_mul_ps(k.a_scale, _mm256_cvtepi32_ps(_mm256_sub_epi32(qa, k.a_zero_point)));
  const __m256 xb = _mm256_mul_ps(k.b_scale, _mm256_cvtepi32_ps(_mm256_sub_epi32(qb, k.b_zero_point)));
  return _mm256_cvtps_epi32(_mm256_min_ps(_mm256_mul_ps(_mm256_add_ps(xa, xb), k.inv_scale), k.top));
}

QGEMM_INLINE __m256i sum32(const Constants& k, const uint8_t* a, const uint8_t* b) {
  const __m256i w01 = _mm256_packs_epi32(sum8(k, a, b), sum8(k, a + 8, b + 8));
  const __m256i w23 = _mm256_packs_epi32(sum8(k, a + 16, b + 16), sum8(k, a + 24, b + 24));
  const __m256i packed = _mm256_packus_epi16(_mm256_adds_epi16(w01, k.zero_point), _mm256_adds_epi16(w23, k.zero_point));
  // The in-lane packs interleave 4-byte groups of the four registers.
  return _mm256_max_epu8(_mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)), k.lo);
}

}  // namespace

void add_u8_1x32(const add_args& g) {
  Constants k;
  k.a_scale = _mm256_set1_ps(g.a_scale);
  k.b_scale = _mm256_set1_ps(g.b_scale);
  k.inv_scale = _mm256_set1_ps(g.inv_scale);
  // vcvtps2dq turns every overflow into INT_MIN, so the upper bound is applied in float.
  k.top = _mm256_set1_ps(static_cast<float>(g.hi - g.zero_point));
  k.a_zero_point = _mm256_set1_epi32(g.a_zero_point);
  k.b_zero_point = _mm256_set1_epi32(g.b_zero_point);
  k.zero_point = _mm256_set1_epi16(static_cast<short>(g.zero_point));
  k.lo = _mm256_set1_epi8(static_cast<char>(g.lo));
  ptrdiff_t i = 0;
  for (; i + 32 <= g.n; i += 32) _mm256_storeu_si256(reinterpret_cast<__m256i*>(g.out + i), sum32(k, g.a + i, g.b + i));
  if (i < g.n) {
    const size_t left = static_cast<size_t>(g.n - i);
    uint8_t a[32] = {}, b[32] = {}, out[32];
    memcpy(a, g.a + i, left);
    memcpy(b, g.b + i, left);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), sum32(k, a, b));
    memcpy(g.out + i, out, left);
  }
}

}  // namespace avx2
}  // namespace qgemm
