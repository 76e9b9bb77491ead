// Convolution of NHWC float images, for layers without an integer encoding. No im2col: the kernels read the image through row
// pointers, and padding is a pointer to a row of zeros.
#pragma once
#include <cstdint>

#include "kernels/api.h"
#include "ops/window.h"

namespace qgemm {

// groups: the weight takes c / groups channels and gives n / groups for each. panels: [groups][ceil(n / groups / kSgemmPanel)][kh
// * kw] [c / groups][kSgemmPanel], zero beyond the columns. bias: [n].
struct FloatWeight {
  int64_t n = 0, groups = 1;
  const float* panels = nullptr;
  const float* bias = nullptr;
};

// out: [batch][out_h][out_w][n], lo <= y <= hi. One chain of fused multiply-adds an output, over the taps and then the channels,
// from the bias on.
void conv2d_f32(const FloatWeight& w, const Window& g, const float* x, float* out, float lo, float hi);

}  // namespace qgemm
