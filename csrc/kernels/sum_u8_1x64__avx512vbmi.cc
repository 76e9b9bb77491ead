// Sums by tables, 64 elements a step: a third of the instructions that two conversions to float and one back take.
#include <immintrin.h>

#include "kernels/api.h"

namespace qgemm {
namespace avx512vbmi {

namespace {

#define QGEMM_INLINE static inline __attribute__((always_inline))

struct Table {
  __m512i part[4];
};
QGEMM_INLINE Table load_table(const void* p) {
  const uint8_t* bytes = static_cast<const uint8_t*>(p);
  return {{_mm512_loadu_si512(bytes), _mm512_loadu_si512(bytes + 64), _mm512_loadu_si512(bytes + 128),
           _mm512_loadu_si512(bytes + 192)}};
}
// vpermi2b indexes 128 bytes with the low seven bits of each byte; the eighth, `upper`, picks the half of the table.
QGEMM_INLINE __m512i look_up(const Table& t, __m512i x, __mmask64 upper) {
  return _mm512_mask_blend_epi8(upper, _mm512_permutex2var_epi8(t.part[0], x, t.part[1]),
                                _mm512_permutex2var_epi8(t.part[2], x, t.part[3]));
}

struct Tables {
  Table rank_a, rank_b, whole_a, whole_b;
  __m512i lo, hi, first_a, first_b;
};

template <bool Wide>
QGEMM_INLINE __m512i sum64(const Tables& t, __m512i a, __m512i b) {
  const __mmask64 upper_a = _mm512_movepi8_mask(a), upper_b = _mm512_movepi8_mask(b);
  const __mmask64 carries = _mm512_cmpgt_epu8_mask(look_up(t.rank_b, b, upper_b), look_up(t.rank_a, a, upper_a));
  const __m512i whole_b = look_up(t.whole_b, b, upper_b), one = _mm512_set1_epi8(1);
  if (Wide) {
    const __mmask64 less_a = _mm512_cmplt_epu8_mask(a, t.first_a), less_b = _mm512_cmplt_epu8_mask(b, t.first_b);
    const __m512i size_a = look_up(t.whole_a, a, upper_a);
    __m512i s = _mm512_maskz_mov_epi8(~less_b, whole_b);
    s = _mm512_mask_adds_epu8(s, ~less_a, s, size_a);
    s = _mm512_mask_adds_epu8(s, carries, s, one);
    s = _mm512_mask_subs_epu8(s, less_a, s, size_a);
    s = _mm512_mask_subs_epu8(s, less_b, s, whole_b);
    return _mm512_min_epu8(_mm512_max_epu8(s, t.lo), t.hi);
  }
  const __m512i s = _mm512_adds_epi8(look_up(t.whole_a, a, upper_a), _mm512_mask_add_epi8(whole_b, carries, whole_b, one));
  // The bounds are those of s, of which flipping the sign makes the byte.
  return _mm512_xor_si512(_mm512_min_epi8(_mm512_max_epi8(s, t.lo), t.hi), _mm512_set1_epi8(static_cast<char>(0x80)));
}

template <bool Wide>
QGEMM_INLINE void sum_rows(const sum_args& g) {
  const int zero = Wide ? 0 : 128;
  const Tables t = {load_table(g.rank_a),
                    load_table(g.rank_b),
                    load_table(g.whole_a),
                    load_table(g.whole_b),
                    _mm512_set1_epi8(static_cast<char>(g.lo - zero)),
                    _mm512_set1_epi8(static_cast<char>(g.hi - zero)),
                    _mm512_set1_epi8(static_cast<char>(g.first_a)),
                    _mm512_set1_epi8(static_cast<char>(g.first_b))};
  for (ptrdiff_t r = 0; r < g.rows; ++r) {
    const uint8_t *a = g.a + r * g.lda, *b = g.b + r * g.ldb;
    uint8_t* out = g.out + r * g.ldo;
    ptrdiff_t i = 0;
    for (; i + 64 <= g.n; i += 64)
      _mm512_storeu_si512(out + i, sum64<Wide>(t, _mm512_loadu_si512(a + i), _mm512_loadu_si512(b + i)));
    if (i < g.n) {
      const __mmask64 m = (1ull << (g.n - i)) - 1;
      _mm512_mask_storeu_epi8(out + i, m, sum64<Wide>(t, _mm512_maskz_loadu_epi8(m, a + i), _mm512_maskz_loadu_epi8(m, b + i)));
    }
  }
}

}  // namespace

void sum_u8_1x64(const sum_args& g) { g.wide ? sum_rows<true>(g) : sum_rows<false>(g); }

}  // namespace avx512vbmi
}  // namespace qgemm
