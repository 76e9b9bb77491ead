// 10 rows by two registers of columns: 20 chains of fused multiply-adds, each in the order of k, and an operand a register of B.
// Row elements are broadcast from memory.
#include "kernels/epilogue__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {
namespace {

template <int MR>
void tile(const sgemm_args& g) {
  __m512 acc[MR][2];
  const __mmask16 first = lanes16(g.n < 16 ? g.n : 16), second = lanes16(g.n < 16 ? 0 : g.n - 16);
  const __m512 bias0 = _mm512_maskz_loadu_ps(first, g.bias), bias1 = _mm512_maskz_loadu_ps(second, g.bias + 16);
#pragma GCC unroll 16
  for (int r = 0; r < MR; ++r) acc[r][0] = bias0, acc[r][1] = bias1;
  const float* b = g.b;
  for (int32_t t = 0; t < g.taps; ++t) {
    const float* a[MR];
#pragma GCC unroll 16
    for (int r = 0; r < MR; ++r) a[r] = g.a[t * MR + r] + g.offset;
    for (ptrdiff_t k = 0; k < g.kc; ++k, b += kSgemmPanel) {
      const __m512 b0 = _mm512_loadu_ps(b), b1 = _mm512_loadu_ps(b + 16);
#pragma GCC unroll 16
      for (int r = 0; r < MR; ++r) {
        const __m512 x = _mm512_set1_ps(a[r][k]);
        acc[r][0] = _mm512_fmadd_ps(x, b0, acc[r][0]);
        acc[r][1] = _mm512_fmadd_ps(x, b1, acc[r][1]);
      }
    }
  }
  // NaN passes: both bounds give their second operand where one is not a number.
  const __m512 lo = _mm512_set1_ps(g.lo), hi = _mm512_set1_ps(g.hi);
#pragma GCC unroll 16
  for (int r = 0; r < MR; ++r) {
    float* c = g.c + r * g.ldc;
    _mm512_mask_storeu_ps(c, first, _mm512_min_ps(hi, _mm512_max_ps(lo, acc[r][0])));
    if (g.n > 16) _mm512_mask_storeu_ps(c + 16, second, _mm512_min_ps(hi, _mm512_max_ps(lo, acc[r][1])));
  }
}

}  // namespace

void sgemm_f32_10x32(const sgemm_args& g) {
  constexpr void (*kTiles[])(const sgemm_args&) = {tile<1>, tile<2>, tile<3>, tile<4>, tile<5>,
                                                   tile<6>, tile<7>, tile<8>, tile<9>, tile<10>};
  kTiles[g.m - 1](g);
}

}  // namespace avx512vnni
}  // namespace qgemm
