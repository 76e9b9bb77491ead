#include "kernels/epilogue__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {

namespace {

struct Constants {
  __m512 a_scale, b_scale, inv_scale, top;
  __m512i a_zero_point, b_zero_point, zero_point, lo;
};

// 16 sums on the output grid, without the zero point. The product and the sum are rounded one by one, as the definition says.
QGEMM_INLINE __m512i sum16(const Constants& k, const uint8_t* a, const uint8_t* b) {
  const __m512i qa = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(a)));
  const __m512i qb = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(b)));
  const __m512 xa = _mm512_mul_ps(k.a_scale, _mm512_cvtepi32_ps(_mm512_sub_epi32(qa, k.a_zero_point)));
  const __m512 xb = _mm512_mul_ps(k.b_scale, _mm512_cvtepi32_ps(_mm512_sub_epi32(qb, k.b_zero_point)));
  return _mm512_cvtps_epi32(_mm512_min_ps(_mm512_mul_ps(_mm512_add_ps(xa, xb), k.inv_scale), k.top));
}

QGEMM_INLINE __m512i sum64(const Constants& k, const uint8_t* a, const uint8_t* b) {
  const __m512i w01 = _mm512_packs_epi32(sum16(k, a, b), sum16(k, a + 16, b + 16));
  const __m512i w23 = _mm512_packs_epi32(sum16(k, a + 32, b + 32), sum16(k, a + 48, b + 48));
  const __m512i packed = _mm512_packus_epi16(_mm512_adds_epi16(w01, k.zero_point), _mm512_adds_epi16(w23, k.zero_point));
  // The in-lane packs interleave 4-byte groups of the four registers.
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm512_max_epu8(_mm512_permutexvar_epi32(order, packed), k.lo);
}

}  // namespace

void add_u8_1x64(const add_args& g) {
  Constants k;
  k.a_scale = _mm512_set1_ps(g.a_scale);
  k.b_scale = _mm512_set1_ps(g.b_scale);
  k.inv_scale = _mm512_set1_ps(g.inv_scale);
  // vcvtps2dq turns every overflow into INT_MIN, so the upper bound is applied in float.
  k.top = _mm512_set1_ps(static_cast<float>(g.hi - g.zero_point));
  k.a_zero_point = _mm512_set1_epi32(g.a_zero_point);
  k.b_zero_point = _mm512_set1_epi32(g.b_zero_point);
  k.zero_point = _mm512_set1_epi16(static_cast<short>(g.zero_point));
  k.lo = _mm512_set1_epi8(static_cast<char>(g.lo));
  ptrdiff_t i = 0;
  for (; i + 64 <= g.n; i += 64) _mm512_storeu_si512(g.out + i, sum64(k, g.a + i, g.b + i));
  if (i < g.n) {
    const __mmask64 m = lanes64(static_cast<int>(g.n - i));
    uint8_t a[64] __attribute__((aligned(64))), b[64] __attribute__((aligned(64)));
    _mm512_store_si512(a, _mm512_maskz_loadu_epi8(m, g.a + i));
    _mm512_store_si512(b, _mm512_maskz_loadu_epi8(m, g.b + i));
    _mm512_mask_storeu_epi8(g.out + i, m, sum64(k, a, b));
  }
}

}  // namespace avx512vnni
}  // namespace qgemm
