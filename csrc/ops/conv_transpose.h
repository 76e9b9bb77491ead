// Transposed convolution of NHWC u8 images. The outputs of one remainder (oy + top) mod stride are an ordinary convolution of
// stride 1 over the image, written to every stride-th line and pixel: s x s small convolutions, no inserted zeros, nothing added
// up in memory.
#pragma once
#include <cstdint>

#include "ops/eltwise.h"
#include "ops/gemm.h"
#include "pack/transposed.h"

namespace qgemm {

// Input [batch][h][w][c]. top, left, bottom, right are cut from the full result; extra_h, extra_w lengthen it at the end (torch's
// output_padding). Kernel, stride and dilation are the weight's.
struct TransposedWindow {
  int64_t batch = 0, h = 0, w = 0, c = 0;
  int64_t top = 0, left = 0, bottom = 0, right = 0;
  int64_t extra_h = 0, extra_w = 0;

  int64_t out_h(const TransposedDims& d) const { return length(h, d.kh, d.stride_h, d.dilation_h, top + bottom, extra_h); }
  int64_t out_w(const TransposedDims& d) const { return length(w, d.kw, d.stride_w, d.dilation_w, left + right, extra_w); }

 private:
  static int64_t length(int64_t n, int64_t k, int64_t stride, int64_t dilation, int64_t cut, int64_t extra) {
    return (n - 1) * stride + dilation * (k - 1) + 1 + extra - cut;
  }
};

// Throws Error(shape) naming the rule for sizes that mean nothing, an output without pixels among them.
void check(const TransposedView& w, const TransposedWindow& g);

// x: [batch][h][w][c]. out: [batch][out_h][out_w][n], `out_stride` bytes from pixel to pixel (0: dense), as in conv2d.
// `encoding`: of x when it is not the packed one.
void conv_transpose2d(const TransposedView& w, const TransposedWindow& g, const uint8_t* x, void* out, const OutputSpec& spec,
                      const Encoding8* encoding = nullptr, int64_t out_stride = 0);

}  // namespace qgemm
