// Operations that compute one output pixel at a time from the float pixels that its window sees: pooling, depthwise convolution.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "cpu/dispatch.h"
#include "ops/gemm.h"
#include "ops/threads.h"
#include "ops/window.h"

namespace qgemm {

// f(pointers to the window's pixels, how many, where the result's g.c floats go) for every output pixel; then the result is
// quantized, or bounded where `bound` says that f has not done so. padding: what stands for pixels outside the image; null: they
// are passed over. c, ldc: as conv2d_f32's.
template <class F>
void each_pixel(const KernelTable& t, const Window& g, const float* x, const float* padding, void* c, ptrdiff_t ldc,
                const OutputSpec& out, bool bound, F f) {
  const int64_t oh = g.out_h(), ow = g.out_w(), rows = g.batch * oh, n = g.c;
  const int64_t most = padding ? g.kh * g.kw : std::min(g.kh, g.h) * std::min(g.kw, g.w);
  if (rows * ow * n == 0) return;
  const bool floats = out.type == OutType::f32;
  bound = bound && (std::isfinite(out.f_lo) || std::isfinite(out.f_hi));
  parallel_shares(rows, threads_for(4 * rows * ow * n * most, 4 * kGrainBytes), [&](int64_t begin, int64_t end) {
    static thread_local Scratch<const float*> pointers;
    static thread_local Scratch<float> scratch;
    const float** taps = pointers.get(most);
    float* pixel = floats ? nullptr : scratch.get(n);
    for (int64_t r = begin; r < end; ++r)
      for (int64_t ox = 0; ox < ow; ++ox) {
        const int64_t y0 = r % oh * g.stride_h - g.top, x0 = ox * g.stride_w - g.left;
        const float* image = x + r / oh * g.h * g.w * g.pixel();
        int32_t count = 0;
        for (int64_t ky = 0; ky < g.kh; ++ky) {
          const int64_t iy = y0 + ky * g.dilation_h;
          const bool inside = iy >= 0 && iy < g.h;
          if (!inside && !padding) continue;
          for (int64_t kx = 0; kx < g.kw; ++kx) {
            const int64_t ix = x0 + kx * g.dilation_w;
            if (inside && ix >= 0 && ix < g.w)
              taps[count++] = image + (iy * g.w + ix) * g.pixel();
            else if (padding)
              taps[count++] = padding;
          }
        }
        char* to = static_cast<char*>(c) + (r * ow + ox) * ldc;
        float* y = floats ? reinterpret_cast<float*>(to) : pixel;
        f(taps, count, y);
        if (!floats) {
          t.quantize({y, to, n, 1.0f / out.scale, out.zero_point, out.lo, out.hi, 1});
        } else if (bound) {
          t.arith({Binary::max, y, &out.f_lo, 1, 0, y, n});
          t.arith({Binary::min, y, &out.f_hi, 1, 0, y, n});
        }
      }
  });
}

}  // namespace qgemm
