// Weights of a transposed convolution with stride s: s x s ordinary convolution weights, one for each remainder (oy + top) mod s,
// (ox + left) mod s of an output position. Each holds the taps that reach such outputs, so no zero is ever inserted or
// multiplied. docs/packing.md derives them. The buffer is a header and the s x s packed weights one after the other.
#pragma once
#include <cstdint>

#include "pack/weights.h"

namespace qgemm {

struct TransposedDims {
  int64_t n = 0, groups = 1, cin_g = 0, kh = 1, kw = 1;  // n: output channels of all groups
  int64_t stride_h = 1, stride_w = 1, dilation_h = 1, dilation_w = 1;
};

// `common`: scale, zero_point, bias, bias_int32, bits, x_scale, x_zero_point, dynamic and name, as of a convolution; its
// dimensions and weight do not matter. weight: [groups * cin_g][n / groups][kh][kw].
struct TransposedSpec {
  TransposedDims dims;
  PackSpec common;
  const int8_t* weight = nullptr;
};

struct TransposedView {
  TransposedDims dims;
  int bits;
  bool has_w_zero_point, dynamic;
  float x_scale;
  int32_t x_zero_point;
  int64_t total_bytes;
  const uint8_t* data;
};

bool is_transposed(const uint8_t* data, int64_t bytes);
int64_t packed_bytes(const TransposedSpec& spec);
void pack(const TransposedSpec& spec, uint8_t* dst);
// Throws Error(packed) unless the buffer is whole and of this build's layout.
TransposedView view_transposed(const uint8_t* data, int64_t bytes);
// The canonical integers back: [groups * cin_g][n / groups][kh][kw].
void unpack(const TransposedView& v, int8_t* weight);

// Filter positions along one axis that reach outputs of remainder r, from last to first, as the input positions they read go up.
// Fills `taps` (room for k) and returns how many; none where the stride is larger than the filter, or shares a factor with the
// dilation.
int64_t taps_of_remainder(int64_t k, int64_t stride, int64_t dilation, int64_t remainder, int64_t* taps);

// Calls f(ry, rx, view) for each remainder's weight in turn. A remainder that no tap reaches has a weight of one tap of zeros.
template <class F>
void each_remainder(const TransposedView& v, F&& f);

// The weight of one remainder, which lies at `at`; `bytes`: its size. Throws Error(packed) when it is not the one that belongs
// there.
PackedView remainder_view(const TransposedView& v, int64_t ry, int64_t rx, const uint8_t* at, int64_t* bytes);

template <class F>
void each_remainder(const TransposedView& v, F&& f) {
  const uint8_t* at = v.data;
  for (int64_t ry = 0; ry < v.dims.stride_h; ++ry)
    for (int64_t rx = 0; rx < v.dims.stride_w; ++rx) {
      int64_t bytes = 0;
      f(ry, rx, remainder_view(v, ry, rx, at, &bytes));
      at += bytes;
    }
}

}  // namespace qgemm
