// Activation by activation: C[b][m][n] = epilogue(sum_k (A - za) * (B - zb)), both operands 8-bit and quantized per tensor.
#pragma once
#include "ops/gemm.h"

namespace qgemm {

struct MatmulOperand {
  const uint8_t* data;
  int64_t batch_stride, ld;  // bytes
  bool transposed;           // a: [k][m]; b: [n][k]
  bool is_signed;            // s8 bytes
  float scale;
  int32_t zero_point;  // on the operand's own grid
};

// c: [batch][m][n], batch_stride and ldc in bytes. The right operand is packed on the fly, once a batch.
void matmul(int64_t batch, int64_t m, int64_t n, int64_t k, const MatmulOperand& a, const MatmulOperand& b, void* c,
            int64_t c_batch_stride, ptrdiff_t ldc, const OutputSpec& out);

}  // namespace qgemm
