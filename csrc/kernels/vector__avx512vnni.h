// The vector type of kernels/elementary.h: 16 floats.
#pragma once
#include "kernels/epilogue__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {

struct V {
  static constexpr int width = 16;
  __m512 v;
  QGEMM_INLINE V set(float x) { return {_mm512_set1_ps(x)}; }
  // A function has more of these than there are registers: loaded where it is used, not kept on the stack across a loop.
  QGEMM_INLINE V constant(const float& x) {
    __m512 v;
    asm volatile("vbroadcastss %1, %0" : "=v"(v) : "m"(x));
    return {v};
  }
  QGEMM_INLINE V load(const float* p) { return {_mm512_loadu_ps(p)}; }
  QGEMM_INLINE V load(const float* p, int count) { return {_mm512_maskz_loadu_ps(lanes16(count), p)}; }
};

QGEMM_INLINE void store(float* p, V a) { _mm512_storeu_ps(p, a.v); }
QGEMM_INLINE void store(float* p, V a, int count) { _mm512_mask_storeu_ps(p, lanes16(count), a.v); }
QGEMM_INLINE V operator+(V a, V b) { return {_mm512_add_ps(a.v, b.v)}; }
QGEMM_INLINE V operator-(V a, V b) { return {_mm512_sub_ps(a.v, b.v)}; }
QGEMM_INLINE V operator*(V a, V b) { return {_mm512_mul_ps(a.v, b.v)}; }
QGEMM_INLINE V operator/(V a, V b) { return {_mm512_div_ps(a.v, b.v)}; }
QGEMM_INLINE V fma(V a, V b, V c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
QGEMM_INLINE V fnma(V a, V b, V c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }
QGEMM_INLINE V sqrt(V a) { return {_mm512_sqrt_ps(a.v)}; }
QGEMM_INLINE V abs(V a) { return {_mm512_andnot_ps(_mm512_set1_ps(-0.0f), a.v)}; }
QGEMM_INLINE V negate(V a) { return {_mm512_xor_ps(_mm512_set1_ps(-0.0f), a.v)}; }
QGEMM_INLINE V round(V a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
QGEMM_INLINE V floor(V a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)}; }
QGEMM_INLINE V ceil(V a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC)}; }
// a, positive or NaN, with the sign of b.
QGEMM_INLINE V sign_of(V a, V b) { return {_mm512_or_ps(a.v, _mm512_and_ps(_mm512_set1_ps(-0.0f), b.v))}; }
// p * 2^n for an integral n of -300..300, rounded once.
QGEMM_INLINE V scale2(V p, V n) { return {_mm512_scalef_ps(p.v, n.v)}; }
QGEMM_INLINE __mmask16 lt(V a, V b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ); }
QGEMM_INLINE __mmask16 equal(V a, V b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ); }
QGEMM_INLINE __mmask16 unordered(V a, V b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_UNORD_Q); }
QGEMM_INLINE V blend(__mmask16 m, V yes, V no) { return {_mm512_mask_blend_ps(m, no.v, yes.v)}; }

}  // namespace avx512vnni
}  // namespace qgemm
