// V registers of channels side by side: each is a chain of fused multiply-adds, which alone would wait for its own results.
#include "kernels/epilogue__avx2.h"

namespace qgemm {
namespace avx2 {
namespace {

template <int V>
QGEMM_INLINE void channels(const fdepthwise_args& g, int c, __m256i lanes) {
  __m256 y[V];
#pragma GCC unroll 4
  for (int j = 0; j < V; ++j) y[j] = _mm256_setzero_ps();
  const float* b = g.b + c;
  for (int t0 = 0; t0 < g.taps; t0 += 256) {
    __m256 sum[V];
#pragma GCC unroll 4
    for (int j = 0; j < V; ++j) sum[j] = _mm256_setzero_ps();
    const int end = g.taps - t0 < 256 ? g.taps : t0 + 256;
    for (int t = t0; t < end; ++t, b += g.channels) {
      const float* a = g.a[t] + c;
#pragma GCC unroll 4
      for (int j = 0; j < V; ++j)
        sum[j] = V > 1 ? _mm256_fmadd_ps(_mm256_loadu_ps(a + 8 * j), _mm256_loadu_ps(b + 8 * j), sum[j])
                       : _mm256_fmadd_ps(_mm256_maskload_ps(a, lanes), _mm256_maskload_ps(b, lanes), sum[j]);
    }
#pragma GCC unroll 4
    for (int j = 0; j < V; ++j) y[j] = t0 > 0 ? _mm256_add_ps(y[j], sum[j]) : sum[j];
  }
#pragma GCC unroll 4
  for (int j = 0; j < V; ++j) {
    const float* bias = g.bias + c + 8 * j;
    __m256 v = _mm256_add_ps(y[j], V > 1 ? _mm256_loadu_ps(bias) : _mm256_maskload_ps(bias, lanes));
    v = _mm256_blendv_ps(v, _mm256_set1_ps(__builtin_nanf("")), _mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    // NaN passes: both bounds give their second operand where one is not a number.
    v = _mm256_min_ps(_mm256_set1_ps(g.hi), _mm256_max_ps(_mm256_set1_ps(g.lo), v));
    if (V > 1)
      _mm256_storeu_ps(g.out + c + 8 * j, v);
    else
      _mm256_maskstore_ps(g.out + c, lanes, v);
  }
}

}  // namespace

void fdepthwise_f32_1x8(const fdepthwise_args& g) {
  int c = 0;
  for (; c + 32 <= g.channels; c += 32) channels<4>(g, c, _mm256_setzero_si256());
  for (; c < g.channels; c += 8) channels<1>(g, c, mask8(g.channels - c));
}

}  // namespace avx2
}  // namespace qgemm
