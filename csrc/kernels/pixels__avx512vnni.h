// The pixels of a pool's row whose windows lie inside it. Included in AVX-512 files only.
#pragma once
#include "kernels/epilogue__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {

struct Inside {
  int64_t lo, hi;
};
// Outputs whose taps all lie inside: [lo, hi), which is empty (lo = hi) where there is nothing to read.
// `stride` is g's: one that the compiler knows saves divisions.
QGEMM_INLINE Inside inside_of(const pool_args& g, int64_t stride) {
  const int64_t last = g.columns - 1 - (g.taps - 1) * g.dilation - g.first;
  const int64_t lo = g.first < 0 ? (-g.first + stride - 1) / stride : 0;
  int64_t hi = last < 0 ? 0 : last / stride + 1;
  if (hi > g.pixels) hi = g.pixels;
  return lo > hi || g.height <= 0 ? Inside{0, 0} : Inside{lo, hi};
}

}  // namespace avx512vnni
}  // namespace qgemm
