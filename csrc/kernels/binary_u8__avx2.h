// Sum and product of two u8 tensors, 32 elements a step. Shared by add and mul; included in their AVX2 files only.
#pragma once
#include "kernels/epilogue__avx2.h"

namespace qgemm {
namespace avx2 {

struct BinaryConstants {
  __m256 a_scale, b_scale, inv_scale, top;
  __m256i a_zero_point, b_zero_point, zero_point, lo;
};

// 8 results on the output grid, without the zero point. Each product and the sum are rounded one by one, as the definition says.
template <bool Multiply>
QGEMM_INLINE __m256i binary8(const BinaryConstants& k, const uint8_t* a, const uint8_t* b) {
  const __m256i qa = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(a)));
  const __m256i qb = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(b)));
  const __m256 xa = _mm256_mul_ps(k.a_scale, _mm256_cvtepi32_ps(_mm256_sub_epi32(qa, k.a_zero_point)));
  const __m256 xb = _mm256_mul_ps(k.b_scale, _mm256_cvtepi32_ps(_mm256_sub_epi32(qb, k.b_zero_point)));
  const __m256 y = Multiply ? _mm256_mul_ps(xa, xb) : _mm256_add_ps(xa, xb);
  return _mm256_cvtps_epi32(_mm256_min_ps(_mm256_mul_ps(y, k.inv_scale), k.top));
}

template <bool Multiply>
QGEMM_INLINE __m256i binary32(const BinaryConstants& k, const uint8_t* a, const uint8_t* b) {
  const __m256i w01 = _mm256_packs_epi32(binary8<Multiply>(k, a, b), binary8<Multiply>(k, a + 8, b + 8));
  const __m256i w23 = _mm256_packs_epi32(binary8<Multiply>(k, a + 16, b + 16), binary8<Multiply>(k, a + 24, b + 24));
  const __m256i packed = _mm256_packus_epi16(_mm256_adds_epi16(w01, k.zero_point), _mm256_adds_epi16(w23, k.zero_point));
  // The in-lane packs interleave 4-byte groups of the four registers.
  return _mm256_max_epu8(_mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)), k.lo);
}

template <bool Multiply>
QGEMM_INLINE void binary(const binary_args& g) {
  BinaryConstants k;
  k.a_scale = _mm256_set1_ps(g.a_scale);
  k.b_scale = _mm256_set1_ps(g.b_scale);
  k.inv_scale = _mm256_set1_ps(g.inv_scale);
  // vcvtps2dq turns every overflow into INT_MIN, so the upper bound is applied in float.
  k.top = _mm256_set1_ps(static_cast<float>(g.hi - g.zero_point));
  k.a_zero_point = _mm256_set1_epi32(g.a_zero_point);
  k.b_zero_point = _mm256_set1_epi32(g.b_zero_point);
  k.zero_point = _mm256_set1_epi16(static_cast<short>(g.zero_point));
  k.lo = _mm256_set1_epi8(static_cast<char>(g.lo));
  for (ptrdiff_t r = 0; r < g.rows; ++r) {
    const uint8_t *a = g.a + r * g.lda, *b = g.b + r * g.ldb;
    uint8_t* out = g.out + r * g.ldo;
    ptrdiff_t i = 0;
    for (; i + 32 <= g.n; i += 32) _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), binary32<Multiply>(k, a + i, b + i));
    if (i < g.n) {
      const size_t left = static_cast<size_t>(g.n - i);
      uint8_t last_a[32] = {}, last_b[32] = {}, last[32];
      memcpy(last_a, a + i, left);
      memcpy(last_b, b + i, left);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(last), binary32<Multiply>(k, last_a, last_b));
      memcpy(out + i, last, left);
    }
  }
}

}  // namespace avx2
}  // namespace qgemm
