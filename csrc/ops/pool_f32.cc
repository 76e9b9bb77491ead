#include "ops/pool_f32.h"

#include <cmath>

#include "ops/pixels_f32.h"
#include "ops/product_job.h"

namespace qgemm {

void max_pool2d_f32(const Window& g, const float* x, void* c, ptrdiff_t ldc, const OutputSpec& out) {
  check_product_result(out);
  const KernelTable& t = table();
  const auto channels = static_cast<int32_t>(g.c);
  each_pixel(t, g, x, nullptr, c, ldc, out, true, [&](const float* const* taps, int32_t n, float* y) {
    t.fmax_pool({taps, n, channels, y});
  });
}

void avg_pool2d_f32(const Window& g, const float* x, bool count_include_pad, void* c, ptrdiff_t ldc, const OutputSpec& out) {
  check_product_result(out);
  const KernelTable& t = table();
  const auto channels = static_cast<int32_t>(g.c);
  each_pixel(t, g, x, nullptr, c, ldc, out, true, [&](const float* const* taps, int32_t n, float* y) {
    t.mean_pool({taps, n, channels, static_cast<double>(count_include_pad ? g.kh * g.kw : n), false, y});
  });
}

void reduce_f32(const float* x, int64_t outer, int64_t n, int64_t inner, Reduction kind, float* y) {
  const KernelTable& t = table();
  Window g;
  g.batch = outer;
  g.h = g.kh = n;
  g.w = 1;
  g.c = inner;
  OutputSpec out;
  out.f_lo = -INFINITY;
  out.f_hi = INFINITY;
  const auto channels = static_cast<int32_t>(inner);
  const bool squares = kind == Reduction::sum_of_squares;
  const auto ldc = static_cast<ptrdiff_t>(4 * inner);
  each_pixel(t, g, x, nullptr, y, ldc, out, false, [&](const float* const* taps, int32_t count, float* to) {
    if (kind == Reduction::max)
      t.fmax_pool({taps, count, channels, to});
    else
      t.mean_pool({taps, count, channels, kind == Reduction::mean ? static_cast<double>(count) : 1.0, squares, to});
  });
}

}  // namespace qgemm
