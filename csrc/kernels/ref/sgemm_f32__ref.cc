#include <cmath>

#include "kernels/api.h"

namespace qgemm {
namespace ref {

void sgemm_f32_1x1(const sgemm_args& g) {
  for (int32_t r = 0; r < g.m; ++r)
    for (int32_t j = 0; j < g.n; ++j) {
      float y = g.bias[j];
      const float* b = g.b + j;
      for (int32_t t = 0; t < g.taps; ++t)
        for (int32_t k = 0; k < g.kc; ++k, b += kSgemmPanel) y = std::fmaf(g.a[t * g.m + r][g.offset + k], *b, y);
      y = y < g.lo ? g.lo : y;
      g.c[r * g.ldc + j] = y > g.hi ? g.hi : y;
    }
}

}  // namespace ref
}  // namespace qgemm
