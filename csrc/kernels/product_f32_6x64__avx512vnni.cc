// fp32 products. 6 rows x 4 registers of columns: 24 chains hide the latency of a fused multiply-add, and each k costs 10 loads
// for 24 of them. The panel's 64 columns x 4 bytes a k come from L2, where a block of k stays while the rows pass over it.
#include "kernels/epilogue__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {
namespace {

constexpr int kRows = 6;

QGEMM_INLINE __m512 finished(__m512 y, __m512 bias) {
  y = _mm512_add_ps(y, bias);
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(y, y, _CMP_UNORD_Q), y, _mm512_set1_ps(__builtin_nanf("")));
}

template <int M, int V>
void tile(const product_args& g, const float* a, float* c) {
  __m512 acc[M][V];
#pragma GCC unroll 6
  for (int i = 0; i < M; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < V; ++j) acc[i][j] = _mm512_setzero_ps();
  const float* b = g.b;
  for (int k = 0; k < g.k; ++k, b += g.width) {
    __m512 v[V];
#pragma GCC unroll 4
    for (int j = 0; j < V; ++j) v[j] = _mm512_loadu_ps(b + 16 * j);
#pragma GCC unroll 6
    for (int i = 0; i < M; ++i) {
      const __m512 x = _mm512_set1_ps(a[i * g.lda + k]);
#pragma GCC unroll 4
      for (int j = 0; j < V; ++j) acc[i][j] = _mm512_fmadd_ps(x, v[j], acc[i][j]);
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < M; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < V; ++j) {
      if (g.n <= 16 * j) break;
      float* at = c + i * g.ldc + 16 * j;
      const __mmask16 lanes = lanes16(valid16(g.n, j));
      __m512 y = acc[i][j];
      if (g.more) y = _mm512_add_ps(_mm512_maskz_loadu_ps(lanes, at), y);
      if (g.bias) y = finished(y, _mm512_maskz_loadu_ps(lanes, g.bias + 16 * j));
      _mm512_mask_storeu_ps(at, lanes, y);
    }
}

template <int V>
void rows(const product_args& g) {
  const float* a = g.a;
  float* c = g.c;
  ptrdiff_t left = g.m;
  // Even heights: 13 rows are 5 + 4 + 4, not 6 + 6 + 1.
  while (left > 0) {
    const ptrdiff_t tiles = (left + kRows - 1) / kRows, m = (left + tiles - 1) / tiles;
    switch (m) {
      case 1:
        tile<1, V>(g, a, c);
        break;
      case 2:
        tile<2, V>(g, a, c);
        break;
      case 3:
        tile<3, V>(g, a, c);
        break;
      case 4:
        tile<4, V>(g, a, c);
        break;
      case 5:
        tile<5, V>(g, a, c);
        break;
      default:
        tile<6, V>(g, a, c);
    }
    a += m * g.lda;
    c += m * g.ldc;
    left -= m;
  }
}

}  // namespace

void product_f32_6x64(const product_args& g) {
  switch (g.width / 16) {
    case 1:
      return rows<1>(g);
    case 2:
      return rows<2>(g);
    case 3:
      return rows<3>(g);
    default:
      return rows<4>(g);
  }
}

}  // namespace avx512vnni
}  // namespace qgemm
