// Rows of u8 or fp32 elements as real numbers, 8 a register, and real numbers stored as an Epilogue says.
#pragma once
#include "kernels/epilogue__avx2.h"

namespace qgemm {
namespace avx2 {

QGEMM_INLINE int left8(ptrdiff_t n, ptrdiff_t i) { return n - i < 8 ? static_cast<int>(n - i) : 8; }

// Elements [i, i + count) (1..8) of a u8 row as integers; 0 in the other lanes.
QGEMM_INLINE __m256i bytes8(const void* x, ptrdiff_t i, int count) {
  const uint8_t* p = static_cast<const uint8_t*>(x) + i;
  if (count == 8) return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  uint64_t b = 0;
  memcpy(&b, p, static_cast<size_t>(count));
  return _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<int64_t>(b)));
}

QGEMM_INLINE __m256 floats8(const void* x, ptrdiff_t i, int count) {
  const float* p = static_cast<const float*>(x) + i;
  return count == 8 ? _mm256_loadu_ps(p) : _mm256_maskload_ps(p, mask8(count));
}

// Real numbers -> the output grid without the zero point; NaN becomes 0. vcvtps2dq turns overflow into INT_MIN, so the upper
// bound is applied in float.
QGEMM_INLINE __m256i real_to_grid(const Epilogue& e, __m256 y) {
  const __m256 t = _mm256_mul_ps(y, _mm256_set1_ps(e.inv_scale));
  const __m256 known = _mm256_and_ps(t, _mm256_cmp_ps(t, t, _CMP_ORD_Q));
  return _mm256_cvtps_epi32(_mm256_min_ps(known, _mm256_set1_ps(static_cast<float>(e.hi - e.zero_point))));
}

// Elements [i, i + count) of an output row.
QGEMM_INLINE void store_real8(const Epilogue& e, __m256 y, void* out, ptrdiff_t i, int count) {
  if (e.out == OutType::f32) {
    y = _mm256_blendv_ps(y, _mm256_set1_ps(__builtin_nanf("")), _mm256_cmp_ps(y, y, _CMP_UNORD_Q));
    _mm256_maskstore_ps(static_cast<float*>(out) + i, mask8(count), y);
  } else {
    store_bytes_n(static_cast<uint8_t*>(out) + i, to_bytes8(e, real_to_grid(e, y)), count);
  }
}

}  // namespace avx2
}  // namespace qgemm
