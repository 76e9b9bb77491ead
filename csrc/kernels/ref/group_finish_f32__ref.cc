#include "kernels/ref/epilogue__ref.h"

namespace qgemm {
namespace ref {

void group_finish_f32_1x1(const group_finish_args& g) {
  const Epilogue& e = *g.ep;
  for (int i = 0; i < g.m; ++i) {
    const float scale = e.row_scale ? e.row_scale[g.row + i] * g.x_scale : g.x_scale;
    for (int n = 0; n < g.n; ++n) {
      const float y = std::fmaf(g.f[static_cast<ptrdiff_t>(i) * g.width + n], scale, e.bias[g.col + n]);
      store_float(e, y, n, static_cast<char*>(g.c) + i * g.ldc);
    }
  }
}

}  // namespace ref
}  // namespace qgemm
