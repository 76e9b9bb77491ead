// A window that slides over an NHWC image: what convolution and pooling share.
#pragma once
#include <cstdint>

namespace qgemm {

// Input [batch][h][w][c]. The window is kh x kw, `dilation` apart; position (oy, ox) reads rows oy * stride_h - top + ky *
// dilation_h.
struct Window {
  int64_t batch = 0, h = 0, w = 0, c = 0;
  int64_t kh = 1, kw = 1;
  int64_t stride_h = 1, stride_w = 1;
  int64_t top = 0, left = 0, bottom = 0, right = 0;
  int64_t dilation_h = 1, dilation_w = 1;
  // Elements from an input pixel to the next, where a slice of a wider image is read; 0: c. Pools, depthwise and float
  // convolutions do so, and 1x1 ones that are products of matrices.
  int64_t x_stride = 0;

  int64_t pixel() const { return x_stride ? x_stride : c; }

  int64_t out_h() const { return positions(h + top + bottom, kh, dilation_h, stride_h); }
  int64_t out_w() const { return positions(w + left + right, kw, dilation_w, stride_w); }

  // Throws Error(shape) naming `op` for a kernel, stride or dilation below 1, a negative padding, or sizes beyond 2^31.
  void check(const char* op) const;

 private:
  static int64_t positions(int64_t padded, int64_t k, int64_t dilation, int64_t stride) {
    const int64_t span = padded - dilation * (k - 1) - 1;
    return span < 0 ? 0 : span / stride + 1;
  }
};

}  // namespace qgemm
