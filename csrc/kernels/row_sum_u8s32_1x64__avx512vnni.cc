#include "kernels/epilogue__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {

void row_sum_u8s32_1x64(const row_sum_args& g) {
  const __m512i ones = _mm512_set1_epi8(1);
  for (ptrdiff_t i = 0; i < g.m; ++i) {
    const uint8_t* a = g.a + i * g.lda;
    __m512i sum = _mm512_setzero_si512(), sum1 = sum;
    ptrdiff_t k = 0;
    for (; k + 128 <= g.k; k += 128) {
      sum = _mm512_dpbusd_epi32(sum, _mm512_loadu_si512(a + k), ones);
      sum1 = _mm512_dpbusd_epi32(sum1, _mm512_loadu_si512(a + k + 64), ones);
    }
    for (; k < g.k; k += 64)
      sum =
          _mm512_dpbusd_epi32(sum, _mm512_maskz_loadu_epi8(lanes64(g.k - k < 64 ? static_cast<int>(g.k - k) : 64), a + k), ones);
    g.sum[i] = _mm512_reduce_add_epi32(_mm512_add_epi32(sum, sum1));
  }
}

}  // namespace avx512vnni
}  // namespace qgemm
