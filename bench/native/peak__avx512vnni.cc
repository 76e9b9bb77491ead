// The physical limit: vpdpbusd on registers, with more independent chains than its latency times its rate.
#include <immintrin.h>

#include <cstdint>

#include "loops.h"

namespace qgemm_bench {

// Multiplies and adds done in `rounds` rounds: 12 chains x 64 products x 2.
int64_t vnni_peak_round(int64_t rounds) {
  __m512i acc[12];
  for (auto& x : acc) {
    x = _mm512_setzero_si512();
    __asm__ volatile("" : "+v"(x));  // else equal chains could become one
  }
  __m512i a = _mm512_set1_epi8(1), b = _mm512_set1_epi8(2);
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < 12; ++j) acc[j] = _mm512_dpbusd_epi32(acc[j], a, b);
    __asm__ volatile("" : "+v"(a), "+v"(b));  // keeps the loop's operands opaque, so that no round is folded away
  }
#pragma GCC unroll 12
  for (int j = 0; j < 12; ++j) __asm__ volatile("" : : "v"(acc[j]));
  return rounds * 12 * 64 * 2;
}

}  // namespace qgemm_bench
