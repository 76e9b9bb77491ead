// Rows of u8 or fp32 elements as real numbers, 16 a register, and real numbers stored as an Epilogue says.
#pragma once
#include "kernels/epilogue__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {

QGEMM_INLINE int left16(ptrdiff_t n, ptrdiff_t i) { return n - i < 16 ? static_cast<int>(n - i) : 16; }

// Elements [i, i + count) (1..16) of a u8 row as integers; 0 in the other lanes.
QGEMM_INLINE __m512i bytes16(const void* x, ptrdiff_t i, int count) {
  const uint8_t* p = static_cast<const uint8_t*>(x) + i;
  if (count == 16) return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(lanes16(count), p));
}

QGEMM_INLINE __m512 floats16(const void* x, ptrdiff_t i, int count) {
  const float* p = static_cast<const float*>(x) + i;
  return count == 16 ? _mm512_loadu_ps(p) : _mm512_maskz_loadu_ps(lanes16(count), p);
}

// Real numbers -> the output grid without the zero point; NaN becomes 0. vcvtps2dq turns overflow into INT_MIN, so the upper
// bound is applied in float.
QGEMM_INLINE __m512i real_to_grid(const Epilogue& e, __m512 y) {
  const __m512 t = _mm512_mul_ps(y, _mm512_set1_ps(e.inv_scale));
  const __m512 top = _mm512_set1_ps(static_cast<float>(e.hi - e.zero_point));
  const __m512 zero = _mm512_min_ps(_mm512_setzero_ps(), top);
  return _mm512_cvtps_epi32(_mm512_mask_min_ps(zero, _mm512_cmp_ps_mask(t, t, _CMP_ORD_Q), t, top));
}

// Elements [i, i + count) of an output row.
QGEMM_INLINE void store_real16(const Epilogue& e, __m512 y, void* out, ptrdiff_t i, int count) {
  if (e.out == OutType::f32) {
    y = _mm512_mask_blend_ps(_mm512_cmp_ps_mask(y, y, _CMP_UNORD_Q), y, _mm512_set1_ps(__builtin_nanf("")));
    _mm512_mask_storeu_ps(static_cast<float*>(out) + i, lanes16(count), y);
  } else {
    _mm_mask_storeu_epi8(static_cast<uint8_t*>(out) + i, lanes16(count), to_bytes16(e, real_to_grid(e, y)));
  }
}

// Four registers as 64 bytes in natural order; u8 and s8 only.
QGEMM_INLINE void store_real64(const Epilogue& e, const __m512* y, void* out, ptrdiff_t i) {
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m512i b =
      to_bytes64_inlane(e, real_to_grid(e, y[0]), real_to_grid(e, y[1]), real_to_grid(e, y[2]), real_to_grid(e, y[3]));
  _mm512_storeu_si512(static_cast<uint8_t*>(out) + i, _mm512_permutexvar_epi32(order, b));
}

}  // namespace avx512vnni
}  // namespace qgemm
