#include <immintrin.h>

#include "kernels/api.h"

namespace qgemm {
namespace avx512vbmi {

namespace {

// vpermi2b indexes 128 bytes with the low seven bits of each byte; the eighth picks the half of the table.
inline __attribute__((always_inline)) __m512i look_up(const __m512i* table, __m512i x) {
  const __m512i low = _mm512_permutex2var_epi8(table[0], x, table[1]), high = _mm512_permutex2var_epi8(table[2], x, table[3]);
  return _mm512_mask_blend_epi8(_mm512_movepi8_mask(x), low, high);
}

}  // namespace

void lut_u8_1x64(const lut_args& g) {
  __m512i table[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) table[i] = _mm512_loadu_si512(g.table + 64 * i);
  for (ptrdiff_t r = 0; r < g.rows; ++r) {
    const uint8_t* x = g.x + r * g.ldx;
    uint8_t* out = g.out + r * g.ldo;
    ptrdiff_t i = 0;
    for (; i + 128 <= g.n; i += 128) {
      const __m512i x0 = _mm512_loadu_si512(x + i), x1 = _mm512_loadu_si512(x + i + 64);
      _mm512_storeu_si512(out + i, look_up(table, x0));
      _mm512_storeu_si512(out + i + 64, look_up(table, x1));
    }
    for (; i < g.n; i += 64) {
      const __mmask64 m = g.n - i >= 64 ? ~0ull : (1ull << (g.n - i)) - 1;
      _mm512_mask_storeu_epi8(out + i, m, look_up(table, _mm512_maskz_loadu_epi8(m, x + i)));
    }
  }
}

}  // namespace avx512vbmi
}  // namespace qgemm
