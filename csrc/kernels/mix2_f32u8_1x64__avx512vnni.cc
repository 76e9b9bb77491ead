// A product with 1/4 is exact, so that a fused multiply-add rounds as the definition does; the product with 3/4 serves both
// neighbours.
#include "kernels/epilogue__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {
namespace {

struct Grid {
  __m512 inv_scale, top;
  __m512i zero_point, lo, hi, order;

  // vcvtps2dq turns every overflow into INT_MIN: where one is possible the upper bound is applied in float.
  template <bool kBounded>
  QGEMM_MEMBER __m512i integers(__m512 y) const {
    __m512 t = _mm512_mul_ps(y, inv_scale);
    if (!kBounded) t = _mm512_min_ps(t, top);
    return _mm512_cvtps_epi32(t);
  }
  // 64 bytes in natural order.
  QGEMM_MEMBER __m512i bytes(const __m512i* q) const {
    const __m512i w01 = _mm512_adds_epi16(_mm512_packs_epi32(q[0], q[1]), zero_point),
                  w23 = _mm512_adds_epi16(_mm512_packs_epi32(q[2], q[3]), zero_point);
    const __m512i b = _mm512_permutexvar_epi32(order, _mm512_packus_epi16(w01, w23));
    return _mm512_min_epu8(_mm512_max_epu8(b, lo), hi);
  }
};

// 64 elements from f on, of which those named by m are there.
template <bool kBounded, bool kWhole>
QGEMM_INLINE void mix64(const Grid& grid, const float* f, ptrdiff_t channels, uint8_t* to_even, uint8_t* to_odd, __mmask64 m) {
  const __m512 quarter = _mm512_set1_ps(0.25f), most = _mm512_set1_ps(0.75f);
  __m512i even[4], odd[4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const auto load = [&](ptrdiff_t at) __attribute__((always_inline)) {
      const float* p = f + 16 * j + at;
      return kWhole ? _mm512_loadu_ps(p) : _mm512_maskz_loadu_ps(static_cast<__mmask16>(m >> (16 * j)), p);
    };
    const __m512 near = _mm512_mul_ps(load(0), most);
    even[j] = grid.integers<kBounded>(_mm512_fmadd_ps(load(-channels), quarter, near));
    odd[j] = grid.integers<kBounded>(_mm512_fmadd_ps(load(channels), quarter, near));
  }
  if (kWhole) {
    _mm512_storeu_si512(to_even, grid.bytes(even));
    _mm512_storeu_si512(to_odd, grid.bytes(odd));
  } else {
    _mm512_mask_storeu_epi8(to_even, m, grid.bytes(even));
    _mm512_mask_storeu_epi8(to_odd, m, grid.bytes(odd));
  }
}

template <bool kBounded>
void row(const mix2_args& given) {
  const mix2_args g = given;  // in registers: bytes that are stored might alias what is behind a reference
  const Grid grid = {_mm512_set1_ps(g.inv_scale),
                     _mm512_set1_ps(static_cast<float>(g.hi - g.zero_point)),
                     _mm512_set1_epi16(static_cast<short>(g.zero_point)),
                     _mm512_set1_epi8(static_cast<char>(g.lo)),
                     _mm512_set1_epi8(static_cast<char>(g.hi)),
                     _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)};
  const float* f = g.f;
  for (ptrdiff_t r = 0; r * g.run < g.n; ++r) {
    uint8_t *even = g.even + r * g.apart, *odd = g.odd + r * g.apart;
    ptrdiff_t i = 0;
    for (; i + 64 <= g.run; i += 64, f += 64) mix64<kBounded, true>(grid, f, g.channels, even + i, odd + i, ~0ull);
    if (i < g.run) mix64<kBounded, false>(grid, f, g.channels, even + i, odd + i, lanes64(static_cast<int>(g.run - i)));
  }
}

}  // namespace

void mix2_f32u8_1x64(const mix2_args& g) { g.bounded ? row<true>(g) : row<false>(g); }

}  // namespace avx512vnni
}  // namespace qgemm
