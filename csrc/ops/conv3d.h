// Convolution of NDHWC u8 volumes, on weights packed as a convolution of (kd * kh) x kw.
#pragma once
#include <cstdint>

#include "ops/eltwise.h"
#include "ops/gemm.h"

namespace qgemm {

// Input [batch][in0][in1][in2][c]: depth, height, width.
struct Window3 {
  int64_t batch = 0, c = 0;
  int64_t in[3] = {0, 0, 0}, kernel[3] = {1, 1, 1}, stride[3] = {1, 1, 1}, dilation[3] = {1, 1, 1};
  int64_t before[3] = {0, 0, 0}, after[3] = {0, 0, 0};  // padding

  int64_t out(int i) const {
    const int64_t span = in[i] + before[i] + after[i] - dilation[i] * (kernel[i] - 1) - 1;
    return span < 0 ? 0 : span / stride[i] + 1;
  }
};

// Throws Error(shape) for sizes that mean nothing or are not the weight's.
void check(const PackedView& w, const Window3& g);

// out: [batch][out(0)][out(1)][out(2)][w.n], dense. `encoding`: of x when it is not the packed one. Depthwise weights with zero
// points are packed as groups (PackedKind::conv).
void conv3d(const PackedView& w, const Window3& g, const uint8_t* x, void* out, const OutputSpec& spec,
            const Encoding8* encoding = nullptr);

}  // namespace qgemm
