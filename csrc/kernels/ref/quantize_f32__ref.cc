#include <cmath>

#include "kernels/api.h"

namespace qgemm {
namespace ref {

void quantize_f32_1x1(const quantize_args& g) {
  const float lo = static_cast<float>(g.qmin - g.zero_point), hi = static_cast<float>(g.qmax - g.zero_point);
  for (ptrdiff_t i = 0; i < g.n; ++i) {
    float t = g.x[i] * g.inv_scale;
    if (std::isnan(t)) t = 0.0f;
    t = t < hi ? t : hi;
    t = t > lo ? t : lo;
    // Clamping to integer bounds before rint gives the same integer, and keeps the conversion in range.
    const int32_t q = static_cast<int32_t>(std::nearbyintf(t)) + g.zero_point;
    if (g.bytes == 1)
      static_cast<uint8_t*>(g.q)[i] = static_cast<uint8_t>(q);
    else
      static_cast<uint16_t*>(g.q)[i] = static_cast<uint16_t>(q);
  }
}

}  // namespace ref
}  // namespace qgemm
