#include <immintrin.h>

#include "loops.h"

namespace qgemm_bench {

void move_avx512(const uint8_t* a, const uint8_t* b, uint8_t* y, int64_t bytes) {
  if (b) {
    for (int64_t i = 0; i < bytes; i += 256)
      for (int64_t j = i; j < i + 256; j += 64)
        _mm512_storeu_si512(y + j, _mm512_or_si512(_mm512_loadu_si512(a + j), _mm512_loadu_si512(b + j)));
    return;
  }
  for (int64_t i = 0; i < bytes; i += 256)
    for (int64_t j = i; j < i + 256; j += 64) _mm512_storeu_si512(y + j, _mm512_loadu_si512(a + j));
}

}  // namespace qgemm_bench
