#include "ops/conv_f32.h"

#include <algorithm>
#include <limits>

#include "ops/pixels_f32.h"
#include "ops/product_job.h"
#include "ops/threads.h"

namespace qgemm {
namespace {

// True when output pixel i reads just the channels of input pixel i: a product of two matrices.
bool is_product(const Window& g) {
  return g.kh * g.kw == 1 && g.stride_h == 1 && g.stride_w == 1 && g.out_h() == g.h && g.out_w() == g.w && g.top == 0 &&
         g.left == 0;
}

void depthwise(const FloatWeight& w, const Window& g, const float* x, const float* zeros, void* c, ptrdiff_t ldc,
               const OutputSpec& out) {
  const bool floats = out.type == OutType::f32;
  fdepthwise_args all{};
  all.channels = static_cast<int32_t>(g.c);
  all.b = w.panels;
  all.bias = w.bias ? w.bias : zeros;
  all.lo = floats ? out.f_lo : -std::numeric_limits<float>::infinity();
  all.hi = floats ? out.f_hi : std::numeric_limits<float>::infinity();
  const KernelTable& t = table();
  each_pixel(t, g, x, zeros, c, ldc, out, false, [&](const float* const* taps, int32_t n, float* y) {
    fdepthwise_args d = all;
    d.a = taps;
    d.taps = n;
    d.out = y;
    t.fdepthwise(d);
  });
}

}  // namespace

void conv2d_f32(const FloatWeight& w, const Window& g, const float* x, void* c, ptrdiff_t ldc, const OutputSpec& out) {
  g.check("conv2d_f32");
  check_product_result(out);
  const int64_t pixels = g.batch * g.out_h() * g.out_w();
  if (pixels * w.n == 0) return;
  static thread_local Scratch<float> zeros;
  float* padding = zeros.get(g.c);
  std::fill(padding, padding + g.c, 0.0f);
  if (w.depthwise(g)) return depthwise(w, g, x, padding, c, ldc, out);
  const ProductJob j{table(),
                     pixels,
                     w.n / w.groups,
                     w.groups,
                     g.kh * g.kw,
                     g.c / w.groups,
                     x,
                     g.pixel(),
                     is_product(g) ? nullptr : &g,
                     padding,
                     w.panels,
                     w.bias,
                     static_cast<char*>(c),
                     ldc,
                     out};
  run(j, j.threads());
}

}  // namespace qgemm
