// Between the entries of float products and convolutions, which check a call, and the driver that computes both.
#pragma once
#include <cstddef>
#include <cstdint>

#include "cpu/dispatch.h"
#include "ops/gemm.h"
#include "ops/window.h"

namespace qgemm {

// C[m][n] of `groups` products side by side, each on its own kc channels of A's rows.
struct ProductJob {
  const KernelTable& t;
  int64_t m, n, groups, taps, kc;  // n: columns of one group
  const float* a;                  // rows of a matrix, lda floats apart; with a window, the image
  int64_t lda;
  const Window* window;  // null, or: row i is what output pixel i sees, its taps in the order of the filter
  const float* padding;  // groups * kc zeros
  const float* panels;   // FloatPanels of every group, one after the other
  const float* bias;     // [groups * n], or null
  char* c;
  ptrdiff_t ldc;  // bytes
  const OutputSpec& out;

  int64_t k() const { return taps * kc; }
  int threads() const;  // that the work is worth
};

void run(const ProductJob& job, int threads);

// Throws Error unless the result is fp32 or u8.
void check_product_result(const OutputSpec& out);

}  // namespace qgemm
