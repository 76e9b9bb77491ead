// From int32 accumulators to stored outputs, 8 columns a register. Shared by the AVX2 kernels; included in their files only.
#pragma once
#include <immintrin.h>
#include <string.h>

#include "kernels/api.h"

namespace qgemm {
namespace avx2 {

#define QGEMM_INLINE static inline __attribute__((always_inline))

QGEMM_INLINE __m256i load8(const int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }

// Raw sum of products -> the exact, corrected accumulator of columns [col, col+8) of row `row`.
QGEMM_INLINE __m256i correct(const Epilogue& e, __m256i acc, int row, int col) {
  acc = _mm256_add_epi32(acc, load8(e.correction + col));
  if (e.row_zero_point)
    acc = _mm256_sub_epi32(acc, _mm256_mullo_epi32(_mm256_set1_epi32(e.row_zero_point[row]), load8(e.colsum + col)));
  if (e.row_sum) acc = _mm256_sub_epi32(acc, _mm256_mullo_epi32(_mm256_set1_epi32(e.row_sum[row]), load8(e.w_zero_point + col)));
  if (e.row_term) acc = _mm256_add_epi32(acc, _mm256_set1_epi32(e.row_term[row]));
  return acc;
}

// Corrected accumulator -> float output, before any clamp.
QGEMM_INLINE __m256 to_float(const Epilogue& e, __m256i acc, int row, int col) {
  __m256 s = _mm256_loadu_ps(e.scale + col);
  if (e.row_scale) s = _mm256_mul_ps(s, _mm256_set1_ps(e.row_scale[row]));
  return _mm256_fmadd_ps(_mm256_cvtepi32_ps(acc), s, _mm256_loadu_ps(e.bias + col));
}

// Float output -> int32 on the output grid without the zero point. The upper side is clamped in float because vcvtps2dq turns
// every overflow into INT_MIN; the lower side may overflow, since INT_MIN clamps to the right bound later.
QGEMM_INLINE __m256i to_grid(const Epilogue& e, __m256 y) {
  const __m256 t =
      _mm256_min_ps(_mm256_mul_ps(y, _mm256_set1_ps(e.inv_scale)), _mm256_set1_ps(static_cast<float>(e.hi - e.zero_point)));
  return _mm256_cvtps_epi32(t);
}

// 8 columns to u8/s8 bytes in the low half.
QGEMM_INLINE __m128i to_bytes8(const Epilogue& e, __m256i q) {
  q = _mm256_max_epi32(_mm256_add_epi32(q, _mm256_set1_epi32(e.zero_point)), _mm256_set1_epi32(e.lo));
  const __m128i w = _mm_packus_epi32(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
  const __m128i b = _mm_packus_epi16(w, w);
  return e.out == OutType::s8 ? _mm_xor_si128(b, _mm_set1_epi8(static_cast<char>(0x80))) : b;
}

QGEMM_INLINE __m256i mask8(int n) { return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)); }

// n (1..8) bytes of the low half of v.
QGEMM_INLINE void store_bytes_n(void* p, __m128i v, int n) {
  if (n >= 8) {
    _mm_storel_epi64(static_cast<__m128i*>(p), v);
  } else {
    uint64_t b = static_cast<uint64_t>(_mm_cvtsi128_si64(v));
    memcpy(p, &b, static_cast<size_t>(n));
  }
}

// 8 float outputs of one row stored as the epilogue says; n (1..8) valid.
QGEMM_INLINE void store_float8(const Epilogue& e, __m256 y, int n, void* c) {
  if (e.out == OutType::f32) {
    y = _mm256_min_ps(_mm256_max_ps(y, _mm256_set1_ps(e.f_lo)), _mm256_set1_ps(e.f_hi));
    _mm256_maskstore_ps(static_cast<float*>(c), mask8(n), y);
  } else {
    store_bytes_n(c, to_bytes8(e, to_grid(e, y)), n);
  }
}

// 8 raw accumulators of one row stored as the epilogue says; n (1..8) valid. c points at the first of them.
QGEMM_INLINE void store_acc8(const Epilogue& e, __m256i acc, int row, int col, int n, void* c) {
  const __m256i v = correct(e, acc, row, col);
  if (e.out == OutType::s32) {
    _mm256_maskstore_epi32(static_cast<int*>(c), mask8(n), v);
  } else if (e.out == OutType::f32_accumulate) {
    float* p = static_cast<float*>(c);
    const __m256i k = mask8(n);
    _mm256_maskstore_ps(p, k, _mm256_fmadd_ps(_mm256_cvtepi32_ps(v), _mm256_loadu_ps(e.scale + col), _mm256_maskload_ps(p, k)));
  } else {
    store_float8(e, to_float(e, v, row, col), n, c);
  }
}

QGEMM_INLINE int out_bytes(OutType t) { return t == OutType::u8 || t == OutType::s8 ? 1 : 4; }

}  // namespace avx2
}  // namespace qgemm
