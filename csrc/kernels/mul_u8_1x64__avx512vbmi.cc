#include "kernels/binary_u8__avx512vbmi.h"

namespace qgemm {
namespace avx512vbmi {
namespace {

// One row of b for all, by a factor a byte of it: a strip of columns at a time, whose factors stay in registers.
template <bool Clamped>
void by_factors(const mul_args& g) {
  const BinaryConstants k = constants_of(g);
  // The lowest bits of the float 3 * 2^22 + n are those of the integer n. The lower halves of two registers of int32 are taken in
  // the order of a pack.
  const __m512 rounding = _mm512_set1_ps(12582912.0f + static_cast<float>(g.zero_point));
  alignas(64) static constexpr uint16_t order[32] = {0,  2,  4,  6,  32, 34, 36, 38, 8,  10, 12, 14, 40, 42, 44, 46,
                                                     16, 18, 20, 22, 48, 50, 52, 54, 24, 26, 28, 30, 56, 58, 60, 62};
  const __m512i halves = _mm512_load_si512(order);
  for (ptrdiff_t i = 0; i < g.n; i += 64) {
    const int count = g.n - i < 64 ? static_cast<int>(g.n - i) : 64;
    const __mmask64 m = count == 64 ? ~0ull : (1ull << count) - 1;
    // In the order in which the bytes of a become floats.
    alignas(64) float of[64] = {};
    for (int c = 0; c < count; ++c) of[c % 16 / 4 * 16 + c / 16 * 4 + c % 4] = g.factor[g.b[i + c]];
    __m512 factor[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) factor[j] = _mm512_load_ps(of + 16 * j);
    const uint8_t* a = g.a + i;
    uint8_t* out = g.out + i;
    for (ptrdiff_t r = 0; r < g.rows; ++r, a += g.lda, out += g.ldo) {
      const __m512i bytes = _mm512_maskz_loadu_epi8(m, a);
      __m512i q[4];
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        const __m512 x = _mm512_sub_ps(_mm512_castsi512_ps(_mm512_permutex2var_epi8(bytes, k.spread[j], k.exponent)), k.a_zero);
        q[j] = _mm512_castps_si512(_mm512_fmadd_ps(x, factor[j], rounding));
      }
      const __m512i y =
          _mm512_packus_epi16(_mm512_permutex2var_epi16(q[0], halves, q[1]), _mm512_permutex2var_epi16(q[2], halves, q[3]));
      _mm512_mask_storeu_epi8(out, m, Clamped ? _mm512_max_epu8(_mm512_min_epu8(y, k.hi), k.lo) : y);
    }
  }
}

}  // namespace

void mul_u8_1x64(const mul_args& g) {
  if (!g.factor || g.ldb != 0 || g.rows < 2) return binary<true>(g);
  g.lo == 0 && g.hi == 255 ? by_factors<false>(g) : by_factors<true>(g);
}

}  // namespace avx512vbmi
}  // namespace qgemm
