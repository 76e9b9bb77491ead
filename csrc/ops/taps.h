// Convolutions of up to three dimensions whose taps lie anywhere: the general driver behind transposed and three-dimensional
// convolution. As in conv2d the kernels read the image in place through row pointers; here the offsets of the taps and the
// distances between output pixels are lists and strides, so that an output may be every second pixel of every second line of an
// image.
#pragma once
#include <cstdint>

#include "ops/eltwise.h"
#include "ops/gemm.h"

namespace qgemm {

// Output (o0, o1, o2) of an image sums over taps (t0, t1, t2) the input pixel at o * step + offset[t], dimension by dimension. A
// tap outside the image reads the zero point. Fewer dimensions: in = out = step = count = 1, offset 0, in front.
struct TapGeometry {
  int64_t batch, channels;  // channels: of an input pixel
  int64_t in[3], out[3], step[3], count[3];
  const int64_t* offset[3];          // [count]
  int64_t out_batch, out_stride[3];  // bytes from one image, plane, line, pixel of the output to the next
  int64_t out_first;                 // bytes from the call's output to this geometry's first pixel

  int64_t pixels() const { return out[0] * out[1] * out[2]; }
};

// One packed weight over one geometry. The weight is a convolution's (or depthwise) of kh = count[0] * count[1], kw = count[2].
struct TapProduct {
  PackedView w;
  Epilogue e;
  TapGeometry g;
};

// What the products of a call share.
struct TapCall {
  const KernelTable& t;
  const uint8_t* x;
  char* out;
  OutType type;
  uint8_t zero_point;  // of x
};

// Runs all products, shared among threads. Depthwise weights must have no zero points.
void run_taps(const TapCall& call, const TapProduct* products, int64_t count);

// The terms of `e` that depend on the input's encoding, for one that is not the packed one. terms: room for 2 * w.n_padded.
// Throws Error naming `op` when the weight was packed, and its accumulators proven, for another zero point.
void use_encoding(const char* op, const PackedView& w, const Encoding8& encoding, int32_t* terms, Epilogue& e);

}  // namespace qgemm
