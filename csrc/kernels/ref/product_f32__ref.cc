#include <cmath>

#include "kernels/api.h"

namespace qgemm {
namespace ref {

void product_f32_1x1(const product_args& g) {
  for (ptrdiff_t i = 0; i < g.m; ++i)
    for (int j = 0; j < g.n; ++j) {
      float sum = 0.0f;
      for (int k = 0; k < g.k; ++k) sum = std::fmaf(g.a[i * g.lda + k], g.b[static_cast<ptrdiff_t>(k) * g.width + j], sum);
      float* c = g.c + i * g.ldc + j;
      float y = g.more ? *c + sum : sum;
      if (g.bias) {
        y += g.bias[j];
        if (std::isnan(y)) y = NAN;
      }
      *c = y;
    }
}

}  // namespace ref
}  // namespace qgemm
