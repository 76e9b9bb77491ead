// Sum and product of two u8 tensors, 64 elements a step. Shared by add and mul; included in their VBMI files only.
#pragma once
#include <immintrin.h>

#include "kernels/api.h"

namespace qgemm {
namespace avx512vbmi {

#define QGEMM_INLINE static inline __attribute__((always_inline))

struct BinaryConstants {
  __m512 a_scale, b_scale, inv_scale, top, a_zero, b_zero;
  __m512i zero_point, lo, hi;
  __m512i spread[4], exponent;
};

struct Floats64 {
  __m512 v[4];
};

// 64 bytes as fl(scale * (q - zero_point)). The float 2^23 + q has q as its lowest byte, so one byte permute beside a constant
// makes the floats, and subtracting 2^23 + zero_point leaves q - zero_point, exactly. Register j, lane l gets bytes 16 l + 4 j
// ..: the order that two in-lane packs turn back into the natural one.
QGEMM_INLINE Floats64 dequantize64(const BinaryConstants& k, __m512i bytes, __m512 zero, __m512 scale) {
  Floats64 f;
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m512 biased = _mm512_castsi512_ps(_mm512_permutex2var_epi8(bytes, k.spread[j], k.exponent));
    f.v[j] = _mm512_mul_ps(scale, _mm512_sub_ps(biased, zero));
  }
  return f;
}

// Bounded: no result leaves int32, so that the upper bound may be applied to bytes instead of floats.
template <bool Multiply, bool Bounded>
QGEMM_INLINE __m512i combine64(const BinaryConstants& k, const Floats64& a, const Floats64& b) {
  __m512i q[4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    __m512 t = _mm512_mul_ps(Multiply ? _mm512_mul_ps(a.v[j], b.v[j]) : _mm512_add_ps(a.v[j], b.v[j]), k.inv_scale);
    if (!Bounded) t = _mm512_min_ps(t, k.top);  // vcvtps2dq turns every overflow into INT_MIN
    q[j] = _mm512_cvtps_epi32(t);
  }
  const __m512i w01 = _mm512_packs_epi32(q[0], q[1]), w23 = _mm512_packs_epi32(q[2], q[3]);
  const __m512i bytes = _mm512_packus_epi16(_mm512_adds_epi16(w01, k.zero_point), _mm512_adds_epi16(w23, k.zero_point));
  return _mm512_max_epu8(_mm512_min_epu8(bytes, k.hi), k.lo);
}

template <bool Multiply, bool Bounded>
QGEMM_INLINE void rows_of(const binary_args& g, const BinaryConstants& k) {
  const auto a64 = [&](__m512i v) { return dequantize64(k, v, k.a_zero, k.a_scale); };
  const auto b64 = [&](__m512i v) { return dequantize64(k, v, k.b_zero, k.b_scale); };
  if (g.ldb == 0 && g.rows > 1) {
    // One row of b for all: its floats stay in registers while the rows of a pass. A strip of columns at a time.
    for (ptrdiff_t i = 0; i < g.n; i += 64) {
      const __mmask64 m = g.n - i >= 64 ? ~0ull : (1ull << (g.n - i)) - 1;
      const Floats64 b = b64(_mm512_maskz_loadu_epi8(m, g.b + i));
      for (ptrdiff_t r = 0; r < g.rows; ++r) {
        const __m512i a = _mm512_maskz_loadu_epi8(m, g.a + r * g.lda + i);
        _mm512_mask_storeu_epi8(g.out + r * g.ldo + i, m, combine64<Multiply, Bounded>(k, a64(a), b));
      }
    }
    return;
  }
  for (ptrdiff_t r = 0; r < g.rows; ++r) {
    const uint8_t *a = g.a + r * g.lda, *b = g.b + r * g.ldb;
    uint8_t* out = g.out + r * g.ldo;
    ptrdiff_t i = 0;
    for (; i + 64 <= g.n; i += 64)
      _mm512_storeu_si512(out + i,
                          combine64<Multiply, Bounded>(k, a64(_mm512_loadu_si512(a + i)), b64(_mm512_loadu_si512(b + i))));
    if (i < g.n) {
      const __mmask64 m = (1ull << (g.n - i)) - 1;
      const __m512i qa = _mm512_maskz_loadu_epi8(m, a + i), qb = _mm512_maskz_loadu_epi8(m, b + i);
      _mm512_mask_storeu_epi8(out + i, m, combine64<Multiply, Bounded>(k, a64(qa), b64(qb)));
    }
  }
}

QGEMM_INLINE BinaryConstants constants_of(const binary_args& g) {
  BinaryConstants k;
  k.a_scale = _mm512_set1_ps(g.a_scale);
  k.b_scale = _mm512_set1_ps(g.b_scale);
  k.inv_scale = _mm512_set1_ps(g.inv_scale);
  k.top = _mm512_set1_ps(static_cast<float>(g.hi - g.zero_point));
  k.a_zero = _mm512_set1_ps(8388608.0f + static_cast<float>(g.a_zero_point));
  k.b_zero = _mm512_set1_ps(8388608.0f + static_cast<float>(g.b_zero_point));
  k.zero_point = _mm512_set1_epi16(static_cast<short>(g.zero_point));
  k.lo = _mm512_set1_epi8(static_cast<char>(g.lo));
  k.hi = _mm512_set1_epi8(static_cast<char>(g.hi));
  k.exponent = _mm512_set1_epi32(0x4b000000);
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    // Bytes 64 and above of the index name the constant: its zero byte twice, then its exponent (bytes 1, 2 and 3 of a dword).
    const int at = 0x43424100 + 4 * j;
    k.spread[j] = _mm512_setr_epi32(at, at + 1, at + 2, at + 3, at + 16, at + 17, at + 18, at + 19, at + 32, at + 33, at + 34,
                                    at + 35, at + 48, at + 49, at + 50, at + 51);
  }
  return k;
}

template <bool Multiply>
QGEMM_INLINE void binary(const binary_args& g) {
  const BinaryConstants k = constants_of(g);
  const float a_most = 255.0f * g.a_scale, b_most = 255.0f * g.b_scale;
  // False also for NaN. Half of 2^31 leaves room for the roundings of this estimate.
  if ((Multiply ? a_most * b_most : a_most + b_most) * g.inv_scale < 1073741824.0f)
    rows_of<Multiply, true>(g, k);
  else
    rows_of<Multiply, false>(g, k);
}

}  // namespace avx512vbmi
}  // namespace qgemm
