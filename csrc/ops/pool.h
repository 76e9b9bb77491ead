// Max and average pooling of NHWC u8 images.
#pragma once
#include <cstdint>

#include "ops/eltwise.h"
#include "ops/gemm.h"
#include "ops/window.h"

namespace qgemm {

// Both: out: [batch][out_h][out_w][c], `out_stride` bytes from pixel to pixel (0: dense), as in conv2d.

// Padded positions never win; a window that holds nothing else gives 0.
void max_pool2d(const Window& w, const uint8_t* x, uint8_t* out, int64_t out_stride = 0);

// y = float(sum(q - zero_point)) * float(scale / count), requantized or fp32 as `out` says. Padding adds real zeros; count is the
// window's size inside the padded image, or inside the image itself when `count_include_pad` is false (a window with no such
// position gives y = 0).
void avg_pool2d(const Window& w, const uint8_t* x, const Encoding8& ex, bool count_include_pad, void* c, const OutputSpec& out,
                int64_t out_stride = 0);

}  // namespace qgemm
