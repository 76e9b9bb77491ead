#include "kernels/epilogue__avx2.h"

namespace qgemm {
namespace avx2 {

void max_pool_u8_1x32(const max_pool_args& g) {
  int c = 0;
  for (; c + 32 <= g.channels; c += 32) {
    __m256i m = _mm256_setzero_si256();
    for (int t = 0; t < g.taps; ++t) m = _mm256_max_epu8(m, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(g.a[t] + c)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(g.out + c), m);
  }
  for (; c + 8 <= g.channels; c += 8) {
    __m128i m = _mm_setzero_si128();
    for (int t = 0; t < g.taps; ++t) m = _mm_max_epu8(m, _mm_loadl_epi64(reinterpret_cast<const __m128i*>(g.a[t] + c)));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(g.out + c), m);
  }
  for (; c < g.channels; ++c) {
    uint8_t m = 0;
    for (int t = 0; t < g.taps; ++t) m = g.a[t][c] > m ? g.a[t][c] : m;
    g.out[c] = m;
  }
}

}  // namespace avx2
}  // namespace qgemm
