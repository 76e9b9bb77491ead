// fp32 products. 6 rows x 2 registers of columns: 12 chains, and 15 of the 16 registers.
#include "kernels/epilogue__avx2.h"
#include "kernels/product_cut.h"

namespace qgemm {
namespace avx2 {
namespace {

QGEMM_INLINE __m256 finished(const product_args& g, __m256 y, __m256 bias) {
  y = _mm256_add_ps(y, bias);
  y = _mm256_blendv_ps(y, _mm256_set1_ps(__builtin_nanf("")), _mm256_cmp_ps(y, y, _CMP_UNORD_Q));
  // NaN passes: both bounds give their second operand where one is not a number.
  return _mm256_min_ps(_mm256_set1_ps(g.hi), _mm256_max_ps(_mm256_set1_ps(g.lo), y));
}

// Columns [col, col + 16) of the panel by M rows: those of `pointers` ([taps][M]), or of the matrix from `row` on.
template <int M>
void tile(const product_args& g, int col, const float* const* pointers, ptrdiff_t row) {
  __m256 acc[M][2];
#pragma GCC unroll 6
  for (int i = 0; i < M; ++i) acc[i][0] = acc[i][1] = _mm256_setzero_ps();
  const float* b = g.b + col;
  if (pointers) pointers += g.tap * M;
  ptrdiff_t at = g.first, left = g.k;
  while (left > 0) {
    const ptrdiff_t n = left < g.kc - at ? left : g.kc - at;
    const float* a[M];
#pragma GCC unroll 6
    for (int i = 0; i < M; ++i) a[i] = (pointers ? pointers[i] : g.base + (row + i) * g.lda) + g.offset + at;
    for (ptrdiff_t k = 0; k < n; ++k, b += g.width) {
      const __m256 v0 = _mm256_loadu_ps(b), v1 = _mm256_loadu_ps(b + 8);
#pragma GCC unroll 6
      for (int i = 0; i < M; ++i) {
        const __m256 x = _mm256_broadcast_ss(a[i] + k);
        acc[i][0] = _mm256_fmadd_ps(x, v0, acc[i][0]);
        acc[i][1] = _mm256_fmadd_ps(x, v1, acc[i][1]);
      }
    }
    left -= n;
    at = 0;
    if (pointers) pointers += M;
  }
#pragma GCC unroll 6
  for (int i = 0; i < M; ++i)
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      const int first = col + 8 * j;
      if (first >= g.n) break;
      float* to = g.c + (row + i) * g.ldc + first;
      const __m256i lanes = mask8(g.n - first);
      __m256 y = acc[i][j];
      if (g.more) y = _mm256_add_ps(_mm256_maskload_ps(to, lanes), y);
      if (g.bias) y = finished(g, y, _mm256_maskload_ps(g.bias + first, lanes));
      _mm256_maskstore_ps(to, lanes, y);
    }
}

}  // namespace

void product_f32_6x16(const product_args& g) {
  constexpr void (*kTiles[])(const product_args&, int, const float* const*, ptrdiff_t) = {tile<1>, tile<2>, tile<3>,
                                                                                          tile<4>, tile<5>, tile<6>};
  for (int col = 0; col < g.n; col += 16) {
    const float* const* pointers = g.a;
    for (int32_t row = 0; row < g.m;) {
      const int32_t m = product_tile(g.m - row, g.tile_rows);
      kTiles[m - 1](g, col, pointers, row);
      if (pointers) pointers += static_cast<ptrdiff_t>(m) * g.taps;
      row += m;
    }
  }
}

}  // namespace avx2
}  // namespace qgemm
