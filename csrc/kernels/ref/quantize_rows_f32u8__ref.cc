#include <cmath>

#include "kernels/api.h"
#include "kernels/encoding.h"

namespace qgemm {
namespace ref {

void quantize_rows_f32u8_1x1(const quantize_rows_args& g) {
  *g.bad = -1;
  for (ptrdiff_t r = 0; r < g.rows; ++r) {
    const float* x = g.x + r * g.ldx;
    float lo = 0.0f, hi = 0.0f;
    for (ptrdiff_t i = 0; i < g.n; ++i) {
      if (!std::isfinite(x[i])) {
        *g.bad = r;
        return;
      }
      lo = x[i] < lo ? x[i] : lo;
      hi = x[i] > hi ? x[i] : hi;
    }
    const DynamicEncoding e = encoding_of(lo, hi, g.symmetric);
    const float inverse = 1.0f / e.scale;
    for (ptrdiff_t i = 0; i < g.n; ++i) {
      const float q = std::nearbyintf(x[i] * inverse) + static_cast<float>(e.zero_point);
      g.q[r * g.ldq + i] = static_cast<uint8_t>(q < 0.0f ? 0.0f : q > 255.0f ? 255.0f : q);
    }
    g.scale[r] = e.scale;
    g.zero_point[r] = e.zero_point;
  }
}

}  // namespace ref
}  // namespace qgemm
