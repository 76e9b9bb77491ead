#include <cmath>

#include "kernels/api.h"

namespace qgemm {
namespace ref {

void mix2_f32u8_1x1(const mix2_args& g) {
  const float lo = static_cast<float>(g.lo - g.zero_point), hi = static_cast<float>(g.hi - g.zero_point);
  const auto byte = [&](float near, float far) {
    const float most = near * 0.75f, rest = far * 0.25f;
    float t = (most + rest) * g.inv_scale;
    t = t < hi ? t : hi;
    t = t > lo ? t : lo;
    return static_cast<uint8_t>(static_cast<int32_t>(std::nearbyintf(t)) + g.zero_point);
  };
  for (ptrdiff_t i = 0; i < g.n; ++i) {
    const ptrdiff_t at = i / g.run * g.apart + i % g.run;
    g.even[at] = byte(g.f[i], g.f[i - g.channels]);
    g.odd[at] = byte(g.f[i], g.f[i + g.channels]);
  }
}

}  // namespace ref
}  // namespace qgemm
