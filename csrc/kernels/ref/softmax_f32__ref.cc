#include <cmath>

#include "kernels/coefficients.h"
#include "kernels/ref/rows__ref.h"

namespace qgemm {
namespace ref {

namespace {

// x <= 0
float softmax_exp(float x) {
  if (!(x >= kSoftmaxFloor)) return 0.0f;
  const float n = std::nearbyintf(x * kLog2E);
  const float r = std::fmaf(-n, kLn2Lo, std::fmaf(-n, kLn2Hi, x));
  const float q = std::fmaf(std::fmaf(std::fmaf(std::fmaf(kExp6, r, kExp5), r, kExp4), r, kExp3), r, kExp2);
  return std::ldexp(1.0f + std::fmaf(r * r, q, r), static_cast<int>(n));
}

}  // namespace

void softmax_f32_1x1(const softmax_args& g) {
  for (ptrdiff_t row = 0; row < g.rows; ++row) {
    const char* x = static_cast<const char*>(g.x) + row * g.ldx;
    const float* mask = g.mask ? g.mask + row * g.ldmask : nullptr;
    char* out = static_cast<char*>(g.out) + row * g.ldo;
    float most = -INFINITY;
    bool broken = false;
    for (ptrdiff_t i = 0; i < g.n; ++i) {
      float t = real(x, g.is_u8, g.x_scale, g.x_zero_point, i);
      if (mask) t += mask[i];
      g.scratch[i] = t;
      broken = broken || std::isnan(t);
      most = t > most ? t : most;
    }
    broken = broken || std::isinf(most);
    int64_t sum = 0;
    for (ptrdiff_t i = 0; i < g.n && !broken; ++i) {
      g.scratch[i] = softmax_exp(g.scratch[i] - most);
      sum += static_cast<int64_t>(std::nearbyintf(g.scratch[i] * kSoftmaxOne));
    }
    const float inverse = broken ? NAN : static_cast<float>(double(kSoftmaxOne) / static_cast<double>(sum));
    for (ptrdiff_t i = 0; i < g.n; ++i) store_real(*g.ep, g.scratch[i] * inverse, i, out);
  }
}

}  // namespace ref
}  // namespace qgemm
