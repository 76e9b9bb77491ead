// Convolution of NHWC float images, for layers without an integer encoding. No im2col: the kernels read the image through row
// pointers, and padding is a pointer to a row of zeros.
#pragma once
#include <cstddef>
#include <cstdint>

#include "ops/gemm.h"
#include "ops/window.h"

namespace qgemm {

// groups: the weight takes c / groups channels and gives n / groups for each. panels: the FloatPanels of each group, one after
// the other; their rows are the filter's taps, and the channels within a tap. bias: [n] or null.
struct FloatWeight {
  int64_t n = 0, groups = 1;
  const float* panels = nullptr;  // depthwise (groups = c = n): [taps][c]
  const float* bias = nullptr;

  bool depthwise(const Window& g) const { return groups == g.c && groups == n && groups > 1; }
};

// out: [batch][out_h][out_w][n], fp32 or u8, `ldc` bytes from pixel to pixel. The sum is a product's (ops/product.h), k running
// over the taps and then the channels; padding multiplies zeros.
void conv2d_f32(const FloatWeight& w, const Window& g, const float* x, void* c, ptrdiff_t ldc, const OutputSpec& out);

}  // namespace qgemm
