#include "kernels/api.h"

namespace qgemm {
namespace ref {

void lerp_u8f32_1x1(const lerp_args& g) {
  for (ptrdiff_t i = 0; i < g.n; ++i) {
    const float a = g.scale * static_cast<float>(g.a[i] - g.zero_point), b = g.scale * static_cast<float>(g.b[i] - g.zero_point);
    const float left = a * g.wa, right = b * g.wb;
    g.f[i] = left + right;
  }
}

}  // namespace ref
}  // namespace qgemm
