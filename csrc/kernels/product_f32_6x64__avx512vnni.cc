// fp32 products. 6 rows x 4 registers of columns: 24 chains hide the latency of a fused multiply-add, and each k costs 10 loads
// for 24 of them. The panel's 64 columns x 4 bytes a k come from L2, where a block of k stays while the rows pass over it. Behind
// the block lies the next one, or the next panel: the second and the third tile prefetch it, half each, so that memory does not
// rest until the first tile of the next call waits for it.
#include "kernels/epilogue__avx512vnni.h"
#include "kernels/product_cut.h"

namespace qgemm {
namespace avx512vnni {
namespace {

constexpr int kRows = 6;

QGEMM_INLINE __m512 finished(const product_args& g, __m512 y, __m512 bias) {
  y = _mm512_add_ps(y, bias);
  y = _mm512_mask_blend_ps(_mm512_cmp_ps_mask(y, y, _CMP_UNORD_Q), y, _mm512_set1_ps(__builtin_nanf("")));
  // NaN passes: both bounds give their second operand where one is not a number.
  return _mm512_min_ps(_mm512_set1_ps(g.hi), _mm512_max_ps(_mm512_set1_ps(g.lo), y));
}

// M rows: those of `pointers` ([taps][M]), or of the matrix from `row` on. P: the half of the next block to prefetch, 1 or 2; 0:
// neither.
template <int M, int V, int P = 0>
void tile(const product_args& g, const float* const* pointers, ptrdiff_t row) {
  __m512 acc[M][V];
#pragma GCC unroll 6
  for (int i = 0; i < M; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < V; ++j) acc[i][j] = _mm512_setzero_ps();
  const float* b = g.b;
  const ptrdiff_t block = static_cast<ptrdiff_t>(g.k) * 16 * V;
  if (pointers) pointers += g.tap * M;
  ptrdiff_t at = g.first, left = g.k;
  while (left > 0) {
    const ptrdiff_t n = left < g.kc - at ? left : g.kc - at;
    const float* a[M];
#pragma GCC unroll 6
    for (int i = 0; i < M; ++i) a[i] = (pointers ? pointers[i] : g.base + (row + i) * g.lda) + g.offset + at;
    for (ptrdiff_t k = 0; k < n; ++k, b += 16 * V) {
      __m512 v[V];
#pragma GCC unroll 4
      for (int j = 0; j < V; ++j) v[j] = _mm512_loadu_ps(b + 16 * j);
#pragma GCC unroll 4
      for (int j = P == 2 ? (V + 1) / 2 : 0; j < (P == 0 ? 0 : P == 1 ? (V + 1) / 2 : V); ++j)
        _mm_prefetch(reinterpret_cast<const char*>(b + block + 16 * j), _MM_HINT_T1);
#pragma GCC unroll 6
      for (int i = 0; i < M; ++i) {
        const __m512 x = _mm512_set1_ps(a[i][k]);
#pragma GCC unroll 4
        for (int j = 0; j < V; ++j) acc[i][j] = _mm512_fmadd_ps(x, v[j], acc[i][j]);
      }
    }
    left -= n;
    at = 0;
    if (pointers) pointers += M;
  }
#pragma GCC unroll 6
  for (int i = 0; i < M; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < V; ++j) {
      if (g.n <= 16 * j) break;
      float* to = g.c + (row + i) * g.ldc + 16 * j;
      const __mmask16 lanes = lanes16(valid16(g.n, j));
      __m512 y = acc[i][j];
      if (g.more) y = _mm512_add_ps(_mm512_maskz_loadu_ps(lanes, to), y);
      if (g.bias) y = finished(g, y, _mm512_maskz_loadu_ps(lanes, g.bias + 16 * j));
      _mm512_mask_storeu_ps(to, lanes, y);
    }
}

template <int V>
void rows(const product_args& g) {
  constexpr void (*kTiles[])(const product_args&, const float* const*, ptrdiff_t) = {tile<1, V>, tile<2, V>, tile<3, V>,
                                                                                     tile<4, V>, tile<5, V>, tile<6, V>};
  const float* const* pointers = g.a;
  for (int32_t i = 0, row = 0; row < g.m; ++i) {
    const int32_t m = product_tile(g.m - row, g.tile_rows);
    if (m == kRows && i == 1)
      tile<kRows, V, 1>(g, pointers, row);
    else if (m == kRows && i == 2)
      tile<kRows, V, 2>(g, pointers, row);
    else
      kTiles[m - 1](g, pointers, row);
    if (pointers) pointers += static_cast<ptrdiff_t>(m) * g.taps;
    row += m;
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
