#include <cmath>

#include "kernels/api.h"

namespace qgemm {
namespace ref {

void mix_f32u8_1x1(const mix_args& g) {
  const float lo = static_cast<float>(g.lo - g.zero_point), hi = static_cast<float>(g.hi - g.zero_point);
  for (ptrdiff_t p = 0; p < g.pixels; ++p)
    for (ptrdiff_t c = 0; c < g.channels; ++c) {
      const float left = g.f[g.left[p] * g.channels + c] * g.wl[p], right = g.f[g.right[p] * g.channels + c] * g.wr[p];
      float t = (left + right) * g.inv_scale;
      t = t < hi ? t : hi;
      t = t > lo ? t : lo;
      g.out[p * g.channels + c] = static_cast<uint8_t>(static_cast<int32_t>(std::nearbyintf(t)) + g.zero_point);
    }
}

}  // namespace ref
}  // namespace qgemm
