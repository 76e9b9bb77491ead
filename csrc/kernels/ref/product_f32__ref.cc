#include <cmath>

#include "kernels/api.h"
#include "kernels/product_cut.h"

namespace qgemm {
namespace ref {

void product_f32_1x1(const product_args& g) {
  const float* const* tile = g.a;
  for (int32_t r0 = 0, rows; r0 < g.m; r0 += rows) {
    rows = product_tile(g.m - r0, g.tile_rows);
    for (int32_t r = 0; r < rows; ++r)
      for (int32_t j = 0; j < g.n; ++j) {
        float sum = 0.0f;
        int32_t tap = g.tap, at = g.first;
        for (int32_t k = 0; k < g.k; ++k, ++at) {
          if (at == g.kc) at = 0, ++tap;
          const float* row = g.a ? tile[tap * rows + r] : g.base + (r0 + r) * g.lda;
          sum = std::fmaf(row[g.offset + at], g.b[static_cast<ptrdiff_t>(k) * g.width + j], sum);
        }
        float* c = g.c + (r0 + r) * g.ldc + j;
        float y = g.more ? *c + sum : sum;
        if (g.bias) {
          y += g.bias[j];
          if (std::isnan(y)) y = NAN;
          y = y < g.lo ? g.lo : y > g.hi ? g.hi : y;
        }
        *c = y;
      }
    if (g.a) tile += static_cast<ptrdiff_t>(rows) * g.taps;
  }
}

}  // namespace ref
}  // namespace qgemm
