// Activation by activation: C[b][m][n] = epilogue(sum_k (A - za) * (B - zb)), both operands 8-bit and quantized per tensor.
#pragma once
#include "ops/gemm.h"

namespace qgemm {

// Where the matrices of a batch begin. Two steps are what the heads of several sequences take that lie side by side in one row:
// the next head is a few columns on, the next sequence many rows.
struct Batches {
  int64_t step = 0, inner = 0, outer = 0;

  Batches() = default;
  Batches(int64_t every) : step(every) {}  // NOLINT: a plain stride is the usual case
  // Number i begins at i / count * far + i % count * near.
  Batches(int64_t near, int64_t count, int64_t far) : step(near), inner(count), outer(far) {}
  int64_t operator[](int64_t i) const { return inner ? i / inner * outer + i % inner * step : i * step; }
};

struct MatmulOperand {
  const uint8_t* data;
  Batches batches;  // bytes, like ld
  int64_t ld;
  bool transposed;  // a: [k][m]; b: [n][k]
  bool is_signed;   // s8 bytes
  float scale;
  int32_t zero_point;  // on the operand's own grid
};

// c: [batch][m][n], c_batches and ldc in bytes. The right operand is packed on the fly, once a batch.
void matmul(int64_t batch, int64_t m, int64_t n, int64_t k, const MatmulOperand& a, const MatmulOperand& b, void* c,
            const Batches& c_batches, ptrdiff_t ldc, const OutputSpec& out);

}  // namespace qgemm
