#include "kernels/epilogue__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {

void max_pool_u8_1x64(const max_pool_args& g) {
  int c = 0;
  for (; c + 64 <= g.channels; c += 64) {
    __m512i m = _mm512_setzero_si512();
    for (int t = 0; t < g.taps; ++t) m = _mm512_max_epu8(m, _mm512_loadu_si512(g.a[t] + c));
    _mm512_storeu_si512(g.out + c, m);
  }
  if (c < g.channels) {
    const __mmask64 k = lanes64(g.channels - c);
    __m512i m = _mm512_setzero_si512();
    for (int t = 0; t < g.taps; ++t) m = _mm512_max_epu8(m, _mm512_maskz_loadu_epi8(k, g.a[t] + c));
    _mm512_mask_storeu_epi8(g.out + c, k, m);
  }
}

}  // namespace avx512vnni
}  // namespace qgemm
