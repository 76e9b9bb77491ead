#include "kernels/epilogue__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {

namespace {

// Entries 2i and 2i+1 of the table, as one word, for 32 indices i of 0..127 in the low 7 bits of each word.
QGEMM_INLINE __m512i pairs(const __m512i* table, __m512i i) {
  const __m512i low = _mm512_permutex2var_epi16(table[0], i, table[1]);
  const __m512i high = _mm512_permutex2var_epi16(table[2], i, table[3]);
  return _mm512_mask_blend_epi16(_mm512_test_epi16_mask(i, _mm512_set1_epi16(0x40)), low, high);
}

// The table as 128 words is four registers, so two word permutes and a blend look up a pair; the low bit of the index picks the
// byte.
QGEMM_INLINE __m512i look_up(const __m512i* table, __m512i x) {
  const __mmask64 odd_bytes = 0xaaaaaaaaaaaaaaaaull;
  const __m512i even = pairs(table, _mm512_srli_epi16(_mm512_and_si512(x, _mm512_set1_epi16(0xff)), 1));
  const __m512i odd = pairs(table, _mm512_srli_epi16(x, 9));
  const __m512i first = _mm512_mask_blend_epi8(odd_bytes, even, _mm512_slli_epi16(odd, 8));
  const __m512i second = _mm512_mask_blend_epi8(odd_bytes, _mm512_srli_epi16(even, 8), odd);
  return _mm512_mask_blend_epi8(_mm512_test_epi8_mask(x, _mm512_set1_epi8(1)), first, second);
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
    for (; i + 64 <= g.n; i += 64) _mm512_storeu_si512(out + i, look_up(table, _mm512_loadu_si512(x + i)));
    if (i < g.n) {
      const __mmask64 m = lanes64(static_cast<int>(g.n - i));
      _mm512_mask_storeu_epi8(out + i, m, look_up(table, _mm512_maskz_loadu_epi8(m, x + i)));
    }
  }
}

}  // namespace avx512vnni
}  // namespace qgemm
