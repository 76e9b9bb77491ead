// The vector type of kernels/elementary.h: 8 floats.
#pragma once
#include "kernels/epilogue__avx2.h"

namespace qgemm {
namespace avx2 {

struct V {
  static constexpr int width = 8;
  __m256 v;
  QGEMM_INLINE V set(float x) { return {_mm256_set1_ps(x)}; }
  // A function has more of these than there are registers: loaded where it is used, not kept on the stack across a loop.
  QGEMM_INLINE V constant(const float& x) {
    __m256 v;
    asm volatile("vbroadcastss %1, %0" : "=x"(v) : "m"(x));
    return {v};
  }
  QGEMM_INLINE V load(const float* p) { return {_mm256_loadu_ps(p)}; }
  QGEMM_INLINE V load(const float* p, int count) { return {_mm256_maskload_ps(p, mask8(count))}; }
};

struct Lanes {
  __m256 v;
};

QGEMM_INLINE void store(float* p, V a) { _mm256_storeu_ps(p, a.v); }
QGEMM_INLINE void store(float* p, V a, int count) { _mm256_maskstore_ps(p, mask8(count), a.v); }
QGEMM_INLINE V operator+(V a, V b) { return {_mm256_add_ps(a.v, b.v)}; }
QGEMM_INLINE V operator-(V a, V b) { return {_mm256_sub_ps(a.v, b.v)}; }
QGEMM_INLINE V operator*(V a, V b) { return {_mm256_mul_ps(a.v, b.v)}; }
QGEMM_INLINE V operator/(V a, V b) { return {_mm256_div_ps(a.v, b.v)}; }
QGEMM_INLINE V fma(V a, V b, V c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
QGEMM_INLINE V fnma(V a, V b, V c) { return {_mm256_fnmadd_ps(a.v, b.v, c.v)}; }
QGEMM_INLINE V sqrt(V a) { return {_mm256_sqrt_ps(a.v)}; }
QGEMM_INLINE V abs(V a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)}; }
QGEMM_INLINE V negate(V a) { return {_mm256_xor_ps(_mm256_set1_ps(-0.0f), a.v)}; }
QGEMM_INLINE V round(V a) { return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
QGEMM_INLINE V floor(V a) { return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)}; }
QGEMM_INLINE V ceil(V a) { return {_mm256_round_ps(a.v, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC)}; }
// a, positive or NaN, with the sign of b.
QGEMM_INLINE V sign_of(V a, V b) { return {_mm256_or_ps(a.v, _mm256_and_ps(_mm256_set1_ps(-0.0f), b.v))}; }
// p * 2^n for an integral n of -250..250, rounded once: the first of the two steps cannot leave the normal numbers.
QGEMM_INLINE V scale2(V p, V n) {
  const __m256i k = _mm256_cvtps_epi32(n.v), half = _mm256_srai_epi32(k, 1), rest = _mm256_sub_epi32(k, half);
  const __m256i bias = _mm256_set1_epi32(127);
  const __m256 a = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
  const __m256 b = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23));
  return {_mm256_mul_ps(_mm256_mul_ps(p.v, a), b)};
}
QGEMM_INLINE Lanes lt(V a, V b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ)}; }
QGEMM_INLINE Lanes equal(V a, V b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_EQ_OQ)}; }
QGEMM_INLINE Lanes unordered(V a, V b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_UNORD_Q)}; }
QGEMM_INLINE V blend(Lanes m, V yes, V no) { return {_mm256_blendv_ps(no.v, yes.v, m.v)}; }

}  // namespace avx2
}  // namespace qgemm
