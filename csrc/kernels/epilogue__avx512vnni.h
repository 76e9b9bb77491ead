// From int32 accumulators to stored outputs, 16 columns a register. Shared by the AVX-512 kernels; included in their files only.
#pragma once
#include <immintrin.h>

#include "kernels/api.h"

namespace qgemm {
namespace avx512vnni {

#define QGEMM_INLINE static inline __attribute__((always_inline))
#define QGEMM_MEMBER inline __attribute__((always_inline))

// Low `n` (0..16) lanes.
QGEMM_INLINE __mmask16 lanes16(int n) { return static_cast<__mmask16>((1u << n) - 1u); }
QGEMM_INLINE __mmask64 lanes64(int n) { return n >= 64 ? ~0ull : ((1ull << n) - 1ull); }

// Lane i of register j goes to lane j of register i: natural channel order.
QGEMM_INLINE void transpose_lanes(__m512i* v) {
  const __m512i a = _mm512_shuffle_i32x4(v[0], v[1], 0x44), b = _mm512_shuffle_i32x4(v[0], v[1], 0xee);
  const __m512i c = _mm512_shuffle_i32x4(v[2], v[3], 0x44), d = _mm512_shuffle_i32x4(v[2], v[3], 0xee);
  v[0] = _mm512_shuffle_i32x4(a, c, 0x88);
  v[1] = _mm512_shuffle_i32x4(a, c, 0xdd);
  v[2] = _mm512_shuffle_i32x4(b, d, 0x88);
  v[3] = _mm512_shuffle_i32x4(b, d, 0xdd);
}

// The terms of an accumulator that differ from row to row. `acc` already holds the correction: kernels start from it, not from
// zero.
QGEMM_INLINE __m512i correct(const Epilogue& e, __m512i acc, int row, int col) {
  if (e.row_zero_point)
    acc = _mm512_sub_epi32(acc, _mm512_mullo_epi32(_mm512_set1_epi32(e.row_zero_point[row]), _mm512_loadu_si512(e.colsum + col)));
  if (e.row_sum)
    acc = _mm512_sub_epi32(acc, _mm512_mullo_epi32(_mm512_set1_epi32(e.row_sum[row]), _mm512_loadu_si512(e.w_zero_point + col)));
  if (e.row_term) acc = _mm512_add_epi32(acc, _mm512_set1_epi32(e.row_term[row]));
  return acc;
}

// Corrected accumulator -> float output, before any clamp.
QGEMM_INLINE __m512 to_float(const Epilogue& e, __m512i acc, int row, int col) {
  __m512 s = _mm512_loadu_ps(e.scale + col);
  if (e.row_scale) s = _mm512_mul_ps(s, _mm512_set1_ps(e.row_scale[row]));
  return _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc), s, _mm512_loadu_ps(e.bias + col));
}

// Float output -> int32 on the output grid without the zero point. The upper side is clamped in float because vcvtps2dq turns
// every overflow into INT_MIN; the lower side may overflow, since INT_MIN clamps to the right bound later.
QGEMM_INLINE __m512i to_grid(const Epilogue& e, __m512 y) {
  const __m512 t =
      _mm512_min_ps(_mm512_mul_ps(y, _mm512_set1_ps(e.inv_scale)), _mm512_set1_ps(static_cast<float>(e.hi - e.zero_point)));
  return _mm512_cvtps_epi32(t);
}

// 16 columns to u8/s8 bytes.
QGEMM_INLINE __m128i to_bytes16(const Epilogue& e, __m512i q) {
  q = _mm512_max_epi32(_mm512_add_epi32(q, _mm512_set1_epi32(e.zero_point)), _mm512_set1_epi32(e.lo));
  const __m128i b = _mm512_cvtepi32_epi8(q);
  return e.out == OutType::s8 ? _mm_xor_si128(b, _mm_set1_epi8(static_cast<char>(0x80))) : b;
}

// Four registers whose in-lane pack order is (lane, register, element): bytes come out as lane-major groups of 4.
QGEMM_INLINE __m512i to_bytes64_inlane(const Epilogue& e, __m512i q0, __m512i q1, __m512i q2, __m512i q3) {
  const __m512i zp = _mm512_set1_epi16(static_cast<short>(e.zero_point));
  const __m512i w01 = _mm512_adds_epi16(_mm512_packs_epi32(q0, q1), zp);
  const __m512i w23 = _mm512_adds_epi16(_mm512_packs_epi32(q2, q3), zp);
  __m512i b = _mm512_max_epu8(_mm512_packus_epi16(w01, w23), _mm512_set1_epi8(static_cast<char>(e.lo)));
  if (e.out == OutType::s8) b = _mm512_xor_si512(b, _mm512_set1_epi8(static_cast<char>(0x80)));
  return b;
}

QGEMM_INLINE int valid16(int n, int j) { return n - 16 * j < 16 ? n - 16 * j : 16; }

// One row of a tile, NV registers of 16 columns in natural order, n valid columns, to u8/s8.
template <int NV>
QGEMM_INLINE void store_bytes(const Epilogue& e, const __m512i* acc, int row, int col, int n, void* c) {
  uint8_t* p = static_cast<uint8_t*>(c);
  __m512i q[4];
#pragma GCC unroll 4
  for (int j = 0; j < NV; ++j) q[j] = to_grid(e, to_float(e, correct(e, acc[j], row, col + 16 * j), row, col + 16 * j));
  if (NV == 4) {
    // In natural column order the in-lane packs interleave 4-byte groups of the four registers; one permute undoes it.
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i b = _mm512_permutexvar_epi32(order, to_bytes64_inlane(e, q[0], q[1], q[2], q[3]));
    if (n == 64)
      _mm512_storeu_si512(p, b);
    else
      _mm512_mask_storeu_epi8(p, lanes64(n), b);
  } else {
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j)
      if (n > 16 * j) _mm_mask_storeu_epi8(p + 16 * j, lanes16(valid16(n, j)), to_bytes16(e, q[j]));
  }
}

// The same to fp32.
template <int NV>
QGEMM_INLINE void store_floats(const Epilogue& e, const __m512i* acc, int row, int col, int n, void* c) {
  float* p = static_cast<float*>(c);
#pragma GCC unroll 4
  for (int j = 0; j < NV; ++j)
    if (n > 16 * j) {
      __m512 y = to_float(e, correct(e, acc[j], row, col + 16 * j), row, col + 16 * j);
      y = _mm512_min_ps(_mm512_max_ps(y, _mm512_set1_ps(e.f_lo)), _mm512_set1_ps(e.f_hi));
      _mm512_mask_storeu_ps(p + 16 * j, lanes16(valid16(n, j)), y);
    }
}

// Any output with any terms, from accumulators in memory, [m][16 * nv]: what is not worth a copy in every tile.
static __attribute__((noinline, unused)) void store_spilled(const Epilogue& e, const int32_t* acc, int m, int nv, int row,
                                                            int col, int n, void* c, ptrdiff_t ldc) {
  for (int i = 0; i < m; ++i) {
    char* line = static_cast<char*>(c) + i * ldc;
    for (int j = 0; j < nv && n > 16 * j; ++j) {
      const __mmask16 k = lanes16(valid16(n, j));
      const __m512i raw = _mm512_loadu_si512(acc + (i * nv + j) * 16);
      if (e.out == OutType::s32) {
        _mm512_mask_storeu_epi32(reinterpret_cast<int32_t*>(line) + 16 * j, k, correct(e, raw, row + i, col + 16 * j));
      } else if (e.out == OutType::f32_accumulate) {
        float* p = reinterpret_cast<float*>(line) + 16 * j;
        const __m512 f = _mm512_cvtepi32_ps(correct(e, raw, row + i, col + 16 * j));
        _mm512_mask_storeu_ps(p, k, _mm512_fmadd_ps(f, _mm512_loadu_ps(e.scale + col + 16 * j), _mm512_maskz_loadu_ps(k, p)));
      } else if (e.out == OutType::f32) {
        store_floats<1>(e, &raw, row + i, col + 16 * j, valid16(n, j), line + 64 * j);
      } else {
        store_bytes<1>(e, &raw, row + i, col + 16 * j, valid16(n, j), line + 16 * j);
      }
    }
  }
}

}  // namespace avx512vnni
}  // namespace qgemm
