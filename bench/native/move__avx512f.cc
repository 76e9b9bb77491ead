#include <immintrin.h>

#include "loops.h"

namespace qgemm_bench {

void move_avx512(const uint8_t* a, int64_t reads, const uint8_t* b, uint8_t* y, int64_t writes) {
  constexpr int64_t kStep = 256;
  const int64_t both = (reads < writes ? reads : writes) / kStep * kStep;
  __m512i v[4] = {};
  int64_t i = 0;
  if (b) {
    for (; i < both; i += kStep)
#pragma GCC unroll 4
      for (int64_t j = 0; j < kStep; j += 64)
        _mm512_storeu_si512(y + i + j, _mm512_or_si512(_mm512_loadu_si512(a + i + j), _mm512_loadu_si512(b + i + j)));
  } else {
    for (; i < both; i += kStep)
#pragma GCC unroll 4
      for (int64_t j = 0; j < kStep; j += 64) _mm512_storeu_si512(y + i + j, _mm512_loadu_si512(a + i + j));
  }
  for (int64_t r = i; r + kStep <= reads; r += kStep)
#pragma GCC unroll 4
    for (int64_t j = 0; j < 4; ++j) v[j] = _mm512_or_si512(v[j], _mm512_loadu_si512(a + r + 64 * j));
  __asm__ volatile("" : : "v"(v[0]), "v"(v[1]), "v"(v[2]), "v"(v[3]));  // the loads have a use
  for (int64_t w = i; w + kStep <= writes; w += kStep)
#pragma GCC unroll 4
    for (int64_t j = 0; j < 4; ++j) _mm512_storeu_si512(y + w + 64 * j, v[j]);
}

}  // namespace qgemm_bench
