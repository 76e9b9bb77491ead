#include <cmath>

#include "kernels/api.h"

namespace qgemm {
namespace ref {

void minmax_f32_1x1(const minmax_args& g) {
  float lo = 0.0f, hi = 0.0f;
  bool finite = true;
  for (ptrdiff_t i = 0; i < g.n; ++i) {
    const float x = g.x[i];
    finite = finite && std::isfinite(x);
    lo = x < lo ? x : lo;
    hi = x > hi ? x : hi;
  }
  *g.finite = finite;
  *g.min = finite ? lo : 0.0f;
  *g.max = finite ? hi : 0.0f;
}

}  // namespace ref
}  // namespace qgemm
