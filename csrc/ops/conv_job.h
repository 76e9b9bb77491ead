// Between conv2d, which checks a call, and the drivers that compute it.
#pragma once
#include <cstdint>

#include "ops/gemm.h"
#include "ops/postop.h"
#include "ops/window.h"

namespace qgemm {

// One convolution: what its drivers share.
struct ConvJob {
  const KernelTable& t;
  const PackedView& w;
  const Window& g;
  const uint8_t* x;
  char* c;
  Epilogue e;
  int64_t oh, ow, size;
  uint8_t zero_point;      // of x: the value of padding
  const uint8_t* padding;  // a row of it: enough bytes for one tap (depthwise: for a whole input row)
  int64_t ldc;             // bytes from an output pixel to the next
  const OutputSpec& spec;
  const PostOp* post;  // null: nothing follows

  // What follows on output pixels [first, first + count), channels [col, col + n).
  void finish(int64_t first, int64_t count, int64_t col, int64_t n) const {
    if (post) apply_post(t, *post, spec, c + first * ldc + col * size, ldc, first, count, col, n);
  }
};

void depthwise(const ConvJob& j);

// How a dense convolution is shared: blocks of output pixels, and panels cut in so many parts.
struct ConvShares {
  int threads;
  int64_t blocks, cuts;
};
// Computes it without the products of padding, or returns false where leaves_out_padding() is false, where something follows on
// the output's pixels, or where threads would get uneven shares of its lines.
bool dense_inside(const ConvJob& j, const ConvShares& shares);
// True where there are enough of them to gain by it.
bool leaves_out_padding(const PackedView& w, const Window& window);

// Computes it from padded lines, whose pixels are the rows of a matrix: where filter rows of few channels are taps, on lines long
// enough for a strip. Else returns false.
bool dense_lines(const ConvJob& j, int threads);

// Computes it with pixels in the lanes of a register, straight from the image: filter rows of few channels again, where an output
// sums few products. Else returns false.
bool dense_turned(const ConvJob& j, int threads);

// gemm_args::merged of a weight.
inline int32_t merged_groups(const PackedView& w) {
  return w.cout_s != 16 || w.kc != 16 ? 0 : w.merged % 4 == 0 ? 4 : w.merged == 2 ? 2 : 0;
}

// Bytes a kernel reads of every tap. A tap's ragged end costs a kernel more than the whole group of 4 would, and the panel holds
// zero weights there, so that drivers point only where the rounded number is readable.
inline int64_t readable(const PackedView& w) { return (w.kc + 3) & ~int64_t(3); }

}  // namespace qgemm
