// fp32 products. 6 rows x 2 registers of columns: 12 chains, and 15 of the 16 registers.
#include "kernels/epilogue__avx2.h"

namespace qgemm {
namespace avx2 {
namespace {

constexpr int kRows = 6;

QGEMM_INLINE __m256 finished(__m256 y, __m256 bias) {
  y = _mm256_add_ps(y, bias);
  return _mm256_blendv_ps(y, _mm256_set1_ps(__builtin_nanf("")), _mm256_cmp_ps(y, y, _CMP_UNORD_Q));
}

// Columns [col, col + 16) of the panel.
template <int M>
void tile(const product_args& g, int col, const float* a, float* c) {
  __m256 acc[M][2];
#pragma GCC unroll 6
  for (int i = 0; i < M; ++i) acc[i][0] = acc[i][1] = _mm256_setzero_ps();
  const float* b = g.b + col;
  for (int k = 0; k < g.k; ++k, b += g.width) {
    const __m256 v0 = _mm256_loadu_ps(b), v1 = _mm256_loadu_ps(b + 8);
#pragma GCC unroll 6
    for (int i = 0; i < M; ++i) {
      const __m256 x = _mm256_broadcast_ss(a + i * g.lda + k);
      acc[i][0] = _mm256_fmadd_ps(x, v0, acc[i][0]);
      acc[i][1] = _mm256_fmadd_ps(x, v1, acc[i][1]);
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < M; ++i)
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      const int at = col + 8 * j;
      if (at >= g.n) break;
      float* to = c + i * g.ldc + at;
      const __m256i lanes = mask8(g.n - at);
      __m256 y = acc[i][j];
      if (g.more) y = _mm256_add_ps(_mm256_maskload_ps(to, lanes), y);
      if (g.bias) y = finished(y, _mm256_maskload_ps(g.bias + at, lanes));
      _mm256_maskstore_ps(to, lanes, y);
    }
}

}  // namespace

void product_f32_6x16(const product_args& g) {
  for (int col = 0; col < g.n; col += 16) {
    const float* a = g.a;
    float* c = g.c;
    for (ptrdiff_t left = g.m; left > 0;) {
      const ptrdiff_t tiles = (left + kRows - 1) / kRows, m = (left + tiles - 1) / tiles;
      switch (m) {
        case 1:
          tile<1>(g, col, a, c);
          break;
        case 2:
          tile<2>(g, col, a, c);
          break;
        case 3:
          tile<3>(g, col, a, c);
          break;
        case 4:
          tile<4>(g, col, a, c);
          break;
        case 5:
          tile<5>(g, col, a, c);
          break;
        default:
          tile<6>(g, col, a, c);
      }
      a += m * g.lda;
      c += m * g.ldc;
      left -= m;
    }
  }
}

}  // namespace avx2
}  // namespace qgemm
