// Convolution of NHWC u8 images on packed weights. No im2col: the kernels read the image in place through row pointers, and
// padding is a pointer to a row of zero points, so it needs no correction.
#pragma once
#include <cstdint>

#include "ops/eltwise.h"
#include "ops/gemm.h"
#include "ops/postop.h"
#include "ops/window.h"

namespace qgemm {

// x: [batch][h][w][c]. out: [batch][out_h][out_w][w.n], `out_stride` bytes from pixel to pixel (0: dense), so that it may be a
// slice of a wider image, as where a concatenation follows. `g`'s kh, kw are the weight's own. `encoding`: of x when it is not
// the packed one. `post`: what follows on the output's bytes. Throws Error for a weight that is not a convolution's, channels
// that do not match, or a geometry that means nothing.
void conv2d(const PackedView& w, const Window& g, const uint8_t* x, void* out, const OutputSpec& spec,
            const Encoding8* encoding = nullptr, const PostOp* post = nullptr, int64_t out_stride = 0);

}  // namespace qgemm
