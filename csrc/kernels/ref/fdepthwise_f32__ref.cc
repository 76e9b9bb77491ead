#include <cmath>

#include "kernels/api.h"

namespace qgemm {
namespace ref {

void fdepthwise_f32_1x1(const fdepthwise_args& g) {
  for (int32_t c = 0; c < g.channels; ++c) {
    float y = 0.0f;
    for (int32_t t0 = 0; t0 < g.taps; t0 += 256) {
      float sum = 0.0f;
      for (int32_t t = t0; t < g.taps && t < t0 + 256; ++t)
        sum = std::fmaf(g.a[t][c], g.b[static_cast<ptrdiff_t>(t) * g.channels + c], sum);
      y = t0 > 0 ? y + sum : sum;
    }
    y += g.bias[c];
    g.out[c] = std::isnan(y) ? NAN : y < g.lo ? g.lo : y > g.hi ? g.hi : y;
  }
}

}  // namespace ref
}  // namespace qgemm
