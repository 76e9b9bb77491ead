// C[m][n] = A[m][k] * B[k][n] + bias in fp32: what a network leaves without integers. The order of every sum is part of the
// definition (docs/numerics.md), so results have the same bits on every path and with every number of threads.
#pragma once
#include <cstddef>
#include <cstdint>

#include "ops/matmul.h"

namespace qgemm {

// k of one chain of multiply-adds; the sums of blocks are added in ascending order.
constexpr int64_t kProductBlock = 256;

// B in panels of kPanel columns, each k rows of its width (a multiple of 16), zeros where columns are missing.
struct FloatPanels {
  const float* data;
  int64_t k, n;

  static int64_t floats(int64_t k, int64_t n) { return k * ((n + 15) / 16 * 16); }
};

// b: [k][n], or [n][k] (transposed), ldb floats apart.
void pack_floats(const float* b, int64_t ldb, bool transposed, int64_t k, int64_t n, float* panels);

// a: m rows of k, lda floats apart. bias: [n] or null. c: rows of n elements, ldc bytes apart; fp32 or u8.
void product(const float* a, int64_t m, int64_t lda, const FloatPanels& b, const float* bias, void* c, ptrdiff_t ldc,
             const OutputSpec& out);

struct FloatMatrix {
  const float* data;
  Batches batches;  // floats, like ld
  int64_t ld;
  bool transposed;  // b: [n][k]
};

// One product a batch, B packed on the fly. a is not transposed. c: [batch][m][n], c_batches and ldc in bytes.
void product_batch(int64_t batch, int64_t m, int64_t n, int64_t k, const FloatMatrix& a, const FloatMatrix& b, void* c,
                   const Batches& c_batches, ptrdiff_t ldc, const OutputSpec& out);

}  // namespace qgemm
