#include <cmath>

#include "kernels/api.h"

namespace qgemm {
namespace ref {

void mul_u8_1x1(const mul_args& g) {
  const float lo = static_cast<float>(g.lo - g.zero_point), hi = static_cast<float>(g.hi - g.zero_point);
  for (ptrdiff_t r = 0; r < g.rows; ++r)
    for (ptrdiff_t i = 0; i < g.n; ++i) {
      const float a = g.a_scale * static_cast<float>(g.a[r * g.lda + i] - g.a_zero_point);
      const float b = g.b_scale * static_cast<float>(g.b[r * g.ldb + i] - g.b_zero_point);
      float t = (a * b) * g.inv_scale;
      t = t < hi ? t : hi;
      t = t > lo ? t : lo;
      g.out[r * g.ldo + i] = static_cast<uint8_t>(static_cast<int32_t>(std::nearbyintf(t)) + g.zero_point);
    }
}

}  // namespace ref
}  // namespace qgemm
