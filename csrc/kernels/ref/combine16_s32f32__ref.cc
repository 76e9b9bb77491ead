#include "kernels/ref/epilogue__ref.h"

namespace qgemm {
namespace ref {

void combine16_s32f32_1x1(const combine16_args& g) {
  for (int i = 0; i < g.m; ++i) {
    float* c = reinterpret_cast<float*>(reinterpret_cast<char*>(g.c) + i * g.ldc);
    for (int j = 0; j < g.n; ++j) {
      const ptrdiff_t at = static_cast<ptrdiff_t>(i) * 2 * g.width + j;
      const int64_t acc = 256 * static_cast<int64_t>(g.sums[at]) + g.sums[at + g.width] + static_cast<int64_t>(g.correction[j]);
      float y = std::fmaf(static_cast<float>(acc), g.scale[j], g.bias[j]);
      y = y > g.f_lo ? y : g.f_lo;
      c[j] = y < g.f_hi ? y : g.f_hi;
    }
  }
}

}  // namespace ref
}  // namespace qgemm
