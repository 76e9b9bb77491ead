// Operations on rows, the last axis: softmax and the normalizations, from u8 or fp32 to u8, s8 or fp32. Whatever the types, the
// result is that of the fp32 operation on the real numbers that the input stands for, rounded to the output's grid.
#pragma once
#include <cstddef>
#include <cstdint>

#include "ops/eltwise.h"
#include "ops/gemm.h"

namespace qgemm {

// rows x n elements, contiguous: u8 on a grid, or fp32 (x.encoding is then of no meaning).
struct RowInput {
  const void* data;
  bool is_u8;
  Encoding8 encoding;
};

// A float added to x before the softmax: row (i, j, k) of [d0][d1][d2] rows reads data + i * s0 + j * s1 + k * s2 (in floats),
// where n floats lie side by side. -inf hides an element.
struct Mask {
  const float* data = nullptr;
  int64_t d0 = 1, d1 = 1, d2 = 1, s0 = 0, s1 = 0, s2 = 0;
};

// y = exp(x + mask - max) / sum. A row without a finite maximum gives NaN (zero_point on a grid).
void softmax(const RowInput& x, int64_t rows, int64_t n, const Mask& mask, void* out, const OutputSpec& spec);

// y = (x - mean) / sqrt(variance + epsilon) * gamma + beta over each row; center = false: RMSNorm, x / sqrt(mean(x^2) + epsilon)
// * gamma + beta. gamma, beta: [n], null for 1 and 0. Throws Error(quantization) for an epsilon that is negative or not finite.
void norm(const RowInput& x, int64_t rows, int64_t n, bool center, double epsilon, const float* gamma, const float* beta,
          void* out, const OutputSpec& spec);

}  // namespace qgemm
