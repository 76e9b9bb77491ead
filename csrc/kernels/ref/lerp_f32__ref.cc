#include "kernels/api.h"

namespace qgemm {
namespace ref {

void lerp_f32_1x1(const lerp_args& g) {
  for (ptrdiff_t i = 0; i < g.n; ++i) {
    const float left = g.a[i] * g.wa, right = g.b[i] * g.wb;
    g.f[i] = left + right;
  }
}

}  // namespace ref
}  // namespace qgemm
