// What follows a product on its own output bytes: a residual sum and a table, applied by the driver to one strip of rows at a
// time, while the strip is in L1. The result is, bit for bit, that of the same steps over whole tensors (`add`, then `lut`, of
// ops/eltwise.h).
#pragma once
#include <cstddef>
#include <cstdint>

#include "ops/eltwise.h"
#include "ops/gemm.h"

namespace qgemm {

struct PostOp {
  // With a residual: q = requantize(dequantize(product) + dequantize(residual)) on the grid of `sum` (u8), whose lo and hi carry
  // a ReLU.
  const uint8_t* residual =
      nullptr;  // [rows][n], `residual_stride` bytes from row (pixel) to row; it must not overlap the output
  int64_t residual_stride = 0;
  Encoding8 residual_encoding{1.0f, 0};
  OutputSpec sum;
  // Then, if given: q = table[q], 256 entries.
  const uint8_t* table = nullptr;

  bool any() const { return residual || table; }
  // Throws Error naming `op` when the product's output is not u8, the sum's is not, or the residual's encoding means nothing.
  void check(const char* op, const OutputSpec& product) const;
};

// Rows [row, row + rows), columns [col, col + n) of the product's output, which lie at `c`, `ldc` bytes from row to row.
void apply_post(const KernelTable& t, const PostOp& post, const OutputSpec& product, void* c, ptrdiff_t ldc, int64_t row,
                int64_t rows, int64_t col, int64_t n);

// Rows of a tile column that a driver computes before it applies a post op: few enough that they are still in L1.
constexpr int64_t kPostRows = 64;

}  // namespace qgemm
