// V registers of channels side by side: each is a chain of fused multiply-adds, which alone would wait for its own results.
#include "kernels/epilogue__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {
namespace {

template <int V>
QGEMM_INLINE void channels(const fdepthwise_args& g, int c, __mmask16 last) {
  __m512 y[V];
#pragma GCC unroll 4
  for (int j = 0; j < V; ++j) y[j] = _mm512_setzero_ps();
  const float* b = g.b + c;
  for (int t0 = 0; t0 < g.taps; t0 += 256) {
    __m512 sum[V];
#pragma GCC unroll 4
    for (int j = 0; j < V; ++j) sum[j] = _mm512_setzero_ps();
    const int end = g.taps - t0 < 256 ? g.taps : t0 + 256;
    for (int t = t0; t < end; ++t, b += g.channels) {
      const float* a = g.a[t] + c;
#pragma GCC unroll 4
      for (int j = 0; j < V; ++j) {
        const __mmask16 lanes = j + 1 < V ? static_cast<__mmask16>(0xffff) : last;
        sum[j] = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(lanes, a + 16 * j), _mm512_maskz_loadu_ps(lanes, b + 16 * j), sum[j]);
      }
    }
#pragma GCC unroll 4
    for (int j = 0; j < V; ++j) y[j] = t0 > 0 ? _mm512_add_ps(y[j], sum[j]) : sum[j];
  }
#pragma GCC unroll 4
  for (int j = 0; j < V; ++j) {
    const __mmask16 lanes = j + 1 < V ? static_cast<__mmask16>(0xffff) : last;
    __m512 v = _mm512_add_ps(y[j], _mm512_maskz_loadu_ps(lanes, g.bias + c + 16 * j));
    v = _mm512_mask_blend_ps(_mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), v, _mm512_set1_ps(__builtin_nanf("")));
    // NaN passes: both bounds give their second operand where one is not a number.
    v = _mm512_min_ps(_mm512_set1_ps(g.hi), _mm512_max_ps(_mm512_set1_ps(g.lo), v));
    _mm512_mask_storeu_ps(g.out + c + 16 * j, lanes, v);
  }
}

}  // namespace

void fdepthwise_f32_1x16(const fdepthwise_args& g) {
  int c = 0;
  for (; c + 64 <= g.channels; c += 64) channels<4>(g, c, 0xffff);
  const int left = g.channels - c;
  if (left > 48) return channels<4>(g, c, lanes16(left - 48));
  if (left > 32) return channels<3>(g, c, lanes16(left - 32));
  if (left > 16) return channels<2>(g, c, lanes16(left - 16));
  if (left > 0) channels<1>(g, c, lanes16(left));
}

}  // namespace avx512vnni
}  // namespace qgemm
