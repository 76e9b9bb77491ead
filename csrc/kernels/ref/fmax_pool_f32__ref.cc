#include <cmath>

#include "kernels/api.h"

namespace qgemm {
namespace ref {

void fmax_pool_f32_1x1(const fmax_pool_args& g) {
  for (int c = 0; c < g.channels; ++c) {
    float m = -INFINITY;
    bool nan = false;
    for (int t = 0; t < g.taps; ++t) {
      const float x = g.a[t][c];
      nan = nan || std::isnan(x);
      m = x > m ? x : m;
    }
    g.out[c] = nan ? NAN : m;
  }
}

}  // namespace ref
}  // namespace qgemm
