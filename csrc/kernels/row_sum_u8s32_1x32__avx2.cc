#include <immintrin.h>

#include "kernels/api.h"

namespace qgemm {
namespace avx2 {

void row_sum_u8s32_1x32(const row_sum_args& g) {
  for (ptrdiff_t i = 0; i < g.m; ++i) {
    const uint8_t* a = g.a + i * g.lda;
    __m256i sum = _mm256_setzero_si256();
    ptrdiff_t k = 0;
    for (; k + 32 <= g.k; k += 32)
      sum = _mm256_add_epi64(
          sum, _mm256_sad_epu8(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(a + k)), _mm256_setzero_si256()));
    const __m128i half = _mm_add_epi64(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    int32_t total = static_cast<int32_t>(_mm_cvtsi128_si64(half) + _mm_extract_epi64(half, 1));
    for (; k < g.k; ++k) total += a[k];
    g.sum[i] = total;
  }
}

}  // namespace avx2
}  // namespace qgemm
