#include <cmath>

#include "kernels/api.h"

namespace qgemm {
namespace ref {

void mean_pool_f32_1x1(const mean_pool_args& g) {
  for (int c = 0; c < g.channels; ++c) {
    double sum = 0.0;
    for (int t = 0; t < g.taps; ++t) {
      const double x = g.a[t][c];
      sum += g.squares ? x * x : x;
    }
    const float y = static_cast<float>(sum / g.count);
    g.out[c] = std::isnan(y) ? NAN : y;
  }
}

}  // namespace ref
}  // namespace qgemm
