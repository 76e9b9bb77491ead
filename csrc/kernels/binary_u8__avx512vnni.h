// Sum and product of two u8 tensors, 64 elements a step. Shared by add and mul; included in their AVX-512 files only.
#pragma once
#include "kernels/epilogue__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {

struct BinaryConstants {
  __m512 a_scale, b_scale, inv_scale, top;
  __m512i a_zero_point, b_zero_point, zero_point, lo;
};

// 16 results on the output grid, without the zero point. Each product and the sum are rounded one by one, as the definition says.
template <bool Multiply>
QGEMM_INLINE __m512i binary16(const BinaryConstants& k, __m128i a, __m128i b) {
  const __m512i qa = _mm512_sub_epi32(_mm512_cvtepu8_epi32(a), k.a_zero_point);
  const __m512i qb = _mm512_sub_epi32(_mm512_cvtepu8_epi32(b), k.b_zero_point);
  const __m512 xa = _mm512_mul_ps(k.a_scale, _mm512_cvtepi32_ps(qa)), xb = _mm512_mul_ps(k.b_scale, _mm512_cvtepi32_ps(qb));
  const __m512 y = Multiply ? _mm512_mul_ps(xa, xb) : _mm512_add_ps(xa, xb);
  return _mm512_cvtps_epi32(_mm512_min_ps(_mm512_mul_ps(y, k.inv_scale), k.top));
}

QGEMM_INLINE __m512i to_u8(const BinaryConstants& k, __m512i q0, __m512i q1, __m512i q2, __m512i q3) {
  const __m512i w01 = _mm512_packs_epi32(q0, q1), w23 = _mm512_packs_epi32(q2, q3);
  const __m512i packed = _mm512_packus_epi16(_mm512_adds_epi16(w01, k.zero_point), _mm512_adds_epi16(w23, k.zero_point));
  // The in-lane packs interleave 4-byte groups of the four registers.
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm512_max_epu8(_mm512_permutexvar_epi32(order, packed), k.lo);
}

QGEMM_INLINE __m128i load16(const uint8_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }

template <bool Multiply>
QGEMM_INLINE __m512i binary64(const BinaryConstants& k, const uint8_t* a, const uint8_t* b) {
  return to_u8(k, binary16<Multiply>(k, load16(a), load16(b)), binary16<Multiply>(k, load16(a + 16), load16(b + 16)),
               binary16<Multiply>(k, load16(a + 32), load16(b + 32)), binary16<Multiply>(k, load16(a + 48), load16(b + 48)));
}

// The last elements of a row, fewer than 64: masked loads, so that nothing beyond them is read.
template <bool Multiply>
QGEMM_INLINE void binary_tail(const BinaryConstants& k, const uint8_t* a, const uint8_t* b, uint8_t* out, int n) {
  const __mmask64 m = lanes64(n);
  __m512i q[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __mmask16 part = static_cast<__mmask16>(m >> (16 * i));
    q[i] = binary16<Multiply>(k, _mm_maskz_loadu_epi8(part, a + 16 * i), _mm_maskz_loadu_epi8(part, b + 16 * i));
  }
  _mm512_mask_storeu_epi8(out, m, to_u8(k, q[0], q[1], q[2], q[3]));
}

template <bool Multiply>
QGEMM_INLINE void binary(const binary_args& g) {
  BinaryConstants k;
  k.a_scale = _mm512_set1_ps(g.a_scale);
  k.b_scale = _mm512_set1_ps(g.b_scale);
  k.inv_scale = _mm512_set1_ps(g.inv_scale);
  // vcvtps2dq turns every overflow into INT_MIN, so the upper bound is applied in float.
  k.top = _mm512_set1_ps(static_cast<float>(g.hi - g.zero_point));
  k.a_zero_point = _mm512_set1_epi32(g.a_zero_point);
  k.b_zero_point = _mm512_set1_epi32(g.b_zero_point);
  k.zero_point = _mm512_set1_epi16(static_cast<short>(g.zero_point));
  k.lo = _mm512_set1_epi8(static_cast<char>(g.lo));
  for (ptrdiff_t r = 0; r < g.rows; ++r) {
    const uint8_t *a = g.a + r * g.lda, *b = g.b + r * g.ldb;
    uint8_t* out = g.out + r * g.ldo;
    ptrdiff_t i = 0;
    for (; i + 64 <= g.n; i += 64) _mm512_storeu_si512(out + i, binary64<Multiply>(k, a + i, b + i));
    if (i < g.n) binary_tail<Multiply>(k, a + i, b + i, out + i, static_cast<int>(g.n - i));
  }
}

}  // namespace avx512vnni
}  // namespace qgemm
