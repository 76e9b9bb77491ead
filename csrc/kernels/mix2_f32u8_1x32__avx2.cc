// A product with 1/4 is exact, so that a fused multiply-add rounds as the definition does; the product with 3/4 serves both
// neighbours.
#include "kernels/epilogue__avx2.h"

namespace qgemm {
namespace avx2 {
namespace {

struct Grid {
  __m256 inv_scale, top;
  __m256i zero_point, lo;
};

// vcvtps2dq turns every overflow into INT_MIN, so the upper bound is applied in float.
QGEMM_INLINE __m256i integers(const Grid& k, __m256 y) {
  return _mm256_cvtps_epi32(_mm256_min_ps(_mm256_mul_ps(y, k.inv_scale), k.top));
}
QGEMM_INLINE __m256i bytes(const Grid& k, const __m256i* q) {
  const __m256i w01 = _mm256_adds_epi16(_mm256_packs_epi32(q[0], q[1]), k.zero_point),
                w23 = _mm256_adds_epi16(_mm256_packs_epi32(q[2], q[3]), k.zero_point);
  // The in-lane packs interleave 4-byte groups of the four registers.
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  return _mm256_max_epu8(_mm256_permutevar8x32_epi32(_mm256_packus_epi16(w01, w23), order), k.lo);
}

// 32 elements, those a pixel before them and those a pixel behind.
QGEMM_INLINE void mix32(const Grid& k, const float* before, const float* f, const float* behind, uint8_t* even, uint8_t* odd) {
  const __m256 quarter = _mm256_set1_ps(0.25f), most = _mm256_set1_ps(0.75f);
  __m256i e[4], o[4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m256 near = _mm256_mul_ps(_mm256_loadu_ps(f + 8 * j), most);
    e[j] = integers(k, _mm256_fmadd_ps(_mm256_loadu_ps(before + 8 * j), quarter, near));
    o[j] = integers(k, _mm256_fmadd_ps(_mm256_loadu_ps(behind + 8 * j), quarter, near));
  }
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(even), bytes(k, e));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(odd), bytes(k, o));
}

}  // namespace

void mix2_f32u8_1x32(const mix2_args& g) {
  const Grid k = {_mm256_set1_ps(g.inv_scale), _mm256_set1_ps(static_cast<float>(g.hi - g.zero_point)),
                  _mm256_set1_epi16(static_cast<short>(g.zero_point)), _mm256_set1_epi8(static_cast<char>(g.lo))};
  const float* f = g.f;
  for (ptrdiff_t r = 0; r * g.run < g.n; ++r) {
    uint8_t *to_even = g.even + r * g.apart, *to_odd = g.odd + r * g.apart;
    ptrdiff_t i = 0;
    for (; i + 32 <= g.run; i += 32, f += 32) mix32(k, f - g.channels, f, f + g.channels, to_even + i, to_odd + i);
    if (i == g.run) continue;
    const size_t left = static_cast<size_t>(g.run - i);
    float last[3][32] = {};
    uint8_t even[32], odd[32];
    for (int p = 0; p < 3; ++p) memcpy(last[p], f + (p - 1) * g.channels, 4 * left);
    mix32(k, last[0], last[1], last[2], even, odd);
    memcpy(to_even + i, even, left);
    memcpy(to_odd + i, odd, left);
  }
}

}  // namespace avx2
}  // namespace qgemm
