// Element by element: addition of two quantized tensors, and any u8 -> u8 function as a table.
#pragma once
#include <cstdint>

#include "ops/gemm.h"

namespace qgemm {

struct Encoding8 {
  float scale;
  int32_t zero_point;
};

// y = a_scale * (a - a_zp) + b_scale * (b - b_zp), each product and the sum rounded to fp32; requantized as `out` says (u8).
void add(const uint8_t* a, const Encoding8& ea, const uint8_t* b, const Encoding8& eb, uint8_t* c, int64_t n,
         const OutputSpec& out);
// y[i] = table[x[i]], table of 256.
void lut(const uint8_t* x, const uint8_t* table256, uint8_t* y, int64_t n);

// Throws Error(quantization) naming `what` unless the scale is finite and positive and the zero point lies in 0..255.
void check_encoding(const char* what, double scale, int64_t zero_point);

}  // namespace qgemm
