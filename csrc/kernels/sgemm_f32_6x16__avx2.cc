// 6 rows by two registers of columns: 12 chains of fused multiply-adds, each in the order of k. A panel is two such halves.
#include "kernels/epilogue__avx2.h"

namespace qgemm {
namespace avx2 {
namespace {

template <int MR>
void tile(const sgemm_args& g, int first, int n) {
  __m256 acc[MR][2];
  const __m256i m0 = mask8(n), m1 = mask8(n - 8);
  const __m256 bias0 = _mm256_maskload_ps(g.bias + first, m0),
               bias1 = n > 8 ? _mm256_maskload_ps(g.bias + first + 8, m1) : _mm256_setzero_ps();
#pragma GCC unroll 8
  for (int r = 0; r < MR; ++r) acc[r][0] = bias0, acc[r][1] = bias1;
  const float* b = g.b + first;
  for (int32_t t = 0; t < g.taps; ++t) {
    const float* a[MR];
#pragma GCC unroll 8
    for (int r = 0; r < MR; ++r) a[r] = g.a[t * MR + r] + g.offset;
    for (ptrdiff_t k = 0; k < g.kc; ++k, b += kSgemmPanel) {
      const __m256 b0 = _mm256_loadu_ps(b), b1 = _mm256_loadu_ps(b + 8);
#pragma GCC unroll 8
      for (int r = 0; r < MR; ++r) {
        const __m256 x = _mm256_broadcast_ss(a[r] + k);
        acc[r][0] = _mm256_fmadd_ps(x, b0, acc[r][0]);
        acc[r][1] = _mm256_fmadd_ps(x, b1, acc[r][1]);
      }
    }
  }
  // NaN passes: both bounds give their second operand where one is not a number.
  const __m256 lo = _mm256_set1_ps(g.lo), hi = _mm256_set1_ps(g.hi);
#pragma GCC unroll 8
  for (int r = 0; r < MR; ++r) {
    float* c = g.c + r * g.ldc + first;
    _mm256_maskstore_ps(c, m0, _mm256_min_ps(hi, _mm256_max_ps(lo, acc[r][0])));
    if (n > 8) _mm256_maskstore_ps(c + 8, m1, _mm256_min_ps(hi, _mm256_max_ps(lo, acc[r][1])));
  }
}

}  // namespace

void sgemm_f32_6x16(const sgemm_args& g) {
  constexpr void (*kTiles[])(const sgemm_args&, int, int) = {tile<1>, tile<2>, tile<3>, tile<4>, tile<5>, tile<6>};
  for (int first = 0; first < g.n; first += 16) kTiles[g.m - 1](g, first, g.n - first < 16 ? g.n - first : 16);
}

}  // namespace avx2
}  // namespace qgemm
