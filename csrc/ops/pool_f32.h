// Max and average pooling of NHWC float images, and other reductions of floats, for layers whose input has no integer encoding.
#pragma once
#include <cstddef>
#include <cstdint>

#include "ops/gemm.h"
#include "ops/window.h"

namespace qgemm {

// Both: c: [batch][out_h][out_w][c], fp32 or u8, `ldc` bytes from pixel to pixel. NaN is the positive quiet one.

// NaN where the window holds one; of equal values, so of +-0, the first. A window of padding alone gives -infinity.
void max_pool2d_f32(const Window& g, const float* x, void* c, ptrdiff_t ldc, const OutputSpec& out);

// (float)(sum / count), summed in fp64 over the window's pixels inside the image, row by row. count: how many these
// are, or with `count_include_pad` all of the window's positions; where it is 0 the result is NaN.
void avg_pool2d_f32(const Window& g, const float* x, bool count_include_pad, void* c, ptrdiff_t ldc, const OutputSpec& out);

enum class Reduction : int32_t { mean = 0, sum, sum_of_squares, max };
// x: [outer][n][inner] -> y: [outer][inner], over n ascending, as the pools compute.
void reduce_f32(const float* x, int64_t outer, int64_t n, int64_t inner, Reduction kind, float* y);

}  // namespace qgemm
