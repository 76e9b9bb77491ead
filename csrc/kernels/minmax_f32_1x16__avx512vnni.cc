#include "kernels/epilogue__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {

void minmax_f32_1x16(const minmax_args& g) {
  // Without the sign bit, floats order as integers and everything from 0x7f800000 up is infinite or NaN.
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  __m512 lo[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()}, hi[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
  __m512i top[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
  ptrdiff_t i = 0;
  for (; i + 32 <= g.n; i += 32) {  // two chains: min and max have a latency of four
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      const __m512 x = _mm512_loadu_ps(g.x + i + 16 * j);
      lo[j] = _mm512_min_ps(x, lo[j]);
      hi[j] = _mm512_max_ps(x, hi[j]);
      top[j] = _mm512_max_epu32(top[j], _mm512_and_si512(_mm512_castps_si512(x), magnitude));
    }
  }
  for (; i < g.n; i += 16) {
    const __m512 x = _mm512_maskz_loadu_ps(lanes16(g.n - i < 16 ? static_cast<int>(g.n - i) : 16), g.x + i);
    lo[0] = _mm512_min_ps(x, lo[0]);
    hi[0] = _mm512_max_ps(x, hi[0]);
    top[0] = _mm512_max_epu32(top[0], _mm512_and_si512(_mm512_castps_si512(x), magnitude));
  }
  const __mmask16 infinite = _mm512_cmpge_epu32_mask(_mm512_max_epu32(top[0], top[1]), _mm512_set1_epi32(0x7f800000));
  *g.finite = infinite == 0;
  *g.min = infinite ? 0.0f : _mm512_reduce_min_ps(_mm512_min_ps(lo[0], lo[1]));
  *g.max = infinite ? 0.0f : _mm512_reduce_max_ps(_mm512_max_ps(hi[0], hi[1]));
}

}  // namespace avx512vnni
}  // namespace qgemm
