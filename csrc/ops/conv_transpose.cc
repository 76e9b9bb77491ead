#include "ops/conv_transpose.h"

#include <algorithm>
#include <string>

#include "cpu/error.h"
#include "ops/taps.h"
#include "ops/threads.h"

namespace qgemm {
namespace {

// One axis of one remainder: which outputs it has, and where its taps read.
struct Axis {
  int64_t first, count;  // outputs first, first + stride, ...
  int64_t taps;
};

Axis axis_of(int64_t k, int64_t stride, int64_t dilation, int64_t before, int64_t out, int64_t remainder, int64_t* offset) {
  Axis a;
  a.first = ((remainder - before) % stride + stride) % stride;
  a.count = a.first < out ? (out - a.first - 1) / stride + 1 : 0;
  a.taps = taps_of_remainder(k, stride, dilation, remainder, offset);
  // Output first + m * stride reads, at tap t, the input position m + (first + before - t * dilation) / stride, which divides
  // evenly.
  for (int64_t i = 0; i < a.taps; ++i) offset[i] = (a.first + before - offset[i] * dilation) / stride;
  return a;
}

}  // namespace

void check(const TransposedView& w, const TransposedWindow& g) {
  const TransposedDims& d = w.dims;
  auto need = [](int64_t v, int64_t least, const char* name, const char* remedy) {
    if (v < least || v >= (int64_t(1) << 31))
      throw Error(Code::shape, std::string("conv_transpose2d: ") + name + " must be an integer in " + std::to_string(least) +
                                   "..2^31-1, got " + std::to_string(v) + remedy);
  };
  need(g.h, 1, "input height", "");
  need(g.w, 1, "input width", "");
  const char* grow = "; output_padding lengthens the result";
  need(g.top, 0, "padding[0] (top)", grow);
  need(g.left, 0, "padding[1] (left)", grow);
  need(g.bottom, 0, "padding[2] (bottom)", grow);
  need(g.right, 0, "padding[3] (right)", grow);
  need(g.extra_h, 0, "output_padding[0]", "");
  need(g.extra_w, 0, "output_padding[1]", "");
  if (g.extra_h >= std::max(d.stride_h, d.dilation_h) || g.extra_w >= std::max(d.stride_w, d.dilation_w))
    throw Error(Code::shape, "conv_transpose2d: output_padding (" + std::to_string(g.extra_h) + ", " + std::to_string(g.extra_w) +
                                 ") must be less than the stride or the dilation, (" + std::to_string(d.stride_h) + ", " +
                                 std::to_string(d.stride_w) + ") and (" + std::to_string(d.dilation_h) + ", " +
                                 std::to_string(d.dilation_w) + ")");
  if (g.out_h(d) < 1 || g.out_w(d) < 1)
    throw Error(Code::shape, "conv_transpose2d: an output of " + std::to_string(g.out_h(d)) + " x " + std::to_string(g.out_w(d)) +
                                 " has no pixels; the padding cuts all of it away");
  if (g.c != d.groups * d.cin_g)
    throw Error(Code::shape, "conv_transpose2d: x has " + std::to_string(g.c) + " channels but the weight takes " +
                                 std::to_string(d.groups * d.cin_g) + " (" + std::to_string(d.groups) + " groups of " +
                                 std::to_string(d.cin_g) + "); x must be NHWC");
}

void conv_transpose2d(const TransposedView& w, const TransposedWindow& g, const uint8_t* x, void* out, const OutputSpec& spec,
                      const Encoding8* encoding, int64_t out_stride) {
  check(w, g);
  const TransposedDims& d = w.dims;
  const int64_t oh = g.out_h(d), ow = g.out_w(d), remainders = d.stride_h * d.stride_w;
  const int64_t pixel = out_stride ? out_stride : d.n * static_cast<int64_t>(out_size(spec.type));
  if (g.batch * d.n == 0) return;
  static thread_local Scratch<TapProduct> products;
  static thread_local Scratch<int64_t> offsets;
  static thread_local Scratch<int32_t> terms;
  TapProduct* all = products.get(remainders);
  static const int64_t zero = 0, outside = -(int64_t(1) << 40);
  // Offsets of each remainder of either axis; a remainder has at most k taps.
  int64_t *ys = offsets.get(d.stride_h * d.kh + d.stride_w * d.kw), *xs = ys + d.stride_h * d.kh;
  int64_t count = 0, most = 0;
  each_remainder(w, [&](int64_t ry, int64_t rx, const PackedView& view) {
    const Axis y = axis_of(d.kh, d.stride_h, d.dilation_h, g.top, oh, ry, ys + ry * d.kh),
               v = axis_of(d.kw, d.stride_w, d.dilation_w, g.left, ow, rx, xs + rx * d.kw);
    TapProduct& t = all[count++];
    t.w = view;
    t.e = make_epilogue(view, spec, {});
    const bool reached = y.taps > 0 && v.taps > 0;
    t.g = {g.batch,
           g.c,
           {1, g.h, g.w},
           {1, y.count, v.count},
           {1, 1, 1},
           {1, reached ? y.taps : 1, reached ? v.taps : 1},
           {&zero, reached ? ys + ry * d.kh : &outside, reached ? xs + rx * d.kw : &zero},
           oh * ow * pixel,
           {0, d.stride_h * ow * pixel, d.stride_w * pixel},
           (y.first * ow + v.first) * pixel};
    most += 2 * view.n_padded;
  });
  const uint8_t zero_point = static_cast<uint8_t>(encoding ? encoding->zero_point : w.x_zero_point);
  if (encoding) {
    int32_t* at = terms.get(most);
    for (int64_t i = 0; i < count; ++i) {
      use_encoding("conv_transpose2d", all[i].w, *encoding, at, all[i].e);
      at += 2 * all[i].w.n_padded;
    }
  }
  run_taps({table(), x, static_cast<char*>(out), spec.type, zero_point}, all, count);
}

}  // namespace qgemm
