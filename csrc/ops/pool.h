// Max and average pooling of NHWC u8 images.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "ops/eltwise.h"
#include "ops/gemm.h"
#include "ops/window.h"

namespace qgemm {

// Both: out: [batch][out_h][out_w][c], `out_stride` bytes from pixel to pixel (0: dense), as in conv2d.

// Padded positions never win; a window that holds nothing else gives 0.
void max_pool2d(const Window& w, const uint8_t* x, uint8_t* out, int64_t out_stride = 0);

// Shorter ways from a window's sum to the output grid, each where it gives the byte of the definition's two products for every
// sum that there can be: one factor where all columns are covered (0: none was found), and ends in 16 bits by columns covered.
// [rows of the image in the window]. Made once; the sums are all tried.
struct AverageEnd {
  float factor = 0.0f;
  std::vector<average_words> words;
};
using AverageEnds = std::vector<AverageEnd>;
std::shared_ptr<const AverageEnds> average_ends(const Window& w, const Encoding8& ex, bool count_include_pad,
                                                const OutputSpec& out);

// y = float(sum(q - zero_point)) * float(scale / count), requantized or fp32 as `out` says. Padding adds real zeros; count is the
// window's size inside the padded image, or inside the image itself when `count_include_pad` is false (a window with no such
// position gives y = 0). ends: of these arguments, or null.
void avg_pool2d(const Window& w, const uint8_t* x, const Encoding8& ex, bool count_include_pad, void* c, const OutputSpec& out,
                int64_t out_stride = 0, const AverageEnds* ends = nullptr);

}  // namespace qgemm
