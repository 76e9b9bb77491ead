// With byte permutes across lanes, averages that tie have an end in 16 bits, too: thresholds from a table of 256.
#include "kernels/average_pool_u8__avx512vnni.h"

namespace qgemm {
namespace avx512vbmi {
namespace {

using avx512vnni::Finish;
using avx512vnni::Sums;

struct Thresholds {
  static constexpr bool kWeighted = true;
  QGEMM_MEMBER Thresholds(const average_pool_args& g, const Finish&, int covered) : Thresholds(g.words[covered]) {}
  explicit QGEMM_MEMBER Thresholds(const average_words& a) : weight(_mm512_set1_epi8(static_cast<char>(a.weight))) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) table[i] = _mm512_loadu_si512(a.threshold + 64 * i);
    // In the order of a pack.
    alignas(64) uint8_t order[64];
    for (int i = 0; i < 64; ++i) order[i] = static_cast<uint8_t>(i / 16 * 16 + i % 8 * 2 + (i & 8) * 8);
    low_bytes = _mm512_load_si512(order);
    high_bytes = _mm512_or_si512(low_bytes, _mm512_set1_epi8(1));
  }
  QGEMM_MEMBER __m512i operator()(const Sums& s) const {
    const __m512i whole = _mm512_permutex2var_epi8(s.lo, high_bytes, s.hi),
                  part = _mm512_permutex2var_epi8(s.lo, low_bytes, s.hi);
    // vpermi2b indexes 128 bytes with the low seven bits of each byte; the eighth picks the half of the table.
    const __m512i first = _mm512_permutex2var_epi8(table[0], whole, table[1]),
                  second = _mm512_permutex2var_epi8(table[2], whole, table[3]);
    const __m512i threshold = _mm512_mask_blend_epi8(_mm512_movepi8_mask(whole), first, second);
    return _mm512_mask_add_epi8(whole, _mm512_cmpge_epu8_mask(part, threshold), whole, _mm512_set1_epi8(1));
  }
  __m512i weight, table[4], low_bytes, high_bytes;
};

}  // namespace

void average_pool_u8_1x64(const average_pool_args& g) { avx512vnni::average_pool<Thresholds>(g); }

}  // namespace avx512vbmi
}  // namespace qgemm
