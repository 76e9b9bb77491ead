// Element by element: addition of two quantized tensors, and any u8 -> u8 function as a table.
#pragma once
#include <cstdint>
#include <memory>

#include "ops/gemm.h"

namespace qgemm {

struct Encoding8 {
  float scale;
  int32_t zero_point;
};

// y = a_scale * (a - a_zp) + b_scale * (b - b_zp), each product and the sum rounded to fp32; requantized as `out` says (u8).
void add(const uint8_t* a, const Encoding8& ea, const uint8_t* b, const Encoding8& eb, uint8_t* c, int64_t n,
         const OutputSpec& out);

// An operand seen as rows of bytes, `ld` bytes apart. `repeat` consecutive rows of the result read one row of it: 1 for an
// operand as large as the result; the pixels of an image for a term or factor per channel ([B][C] beside [B][H][W][C]).
struct Operand8 {
  const uint8_t* data;
  int64_t ld;
  Encoding8 encoding;
  int64_t repeat = 1;
};

// Whether the path at hand reads what is made from all pairs of bytes: tables of sums, factors of products.
bool reads_pairs();

// A sum by tables (sum_args), for operands of two encodings: integers only, the same bytes. Made once, from all 65,536 pairs;
// used where the instruction set path looks up faster than it computes, and not worth making elsewhere.
struct SumTables {
  uint8_t rank_a[256], rank_b[256];
  int8_t whole_a[256], whole_b[256];
  bool wide = false;
  int32_t first_a = 0, first_b = 0;
};
// Null where no tables give every pair's byte: an operand spans more steps of the result than a byte counts to either side of
// zero, or many pairs tie between two steps, where float roundings decide.
std::shared_ptr<const SumTables> sum_tables(const Encoding8& ea, const Encoding8& eb, const OutputSpec& out);

// Sum and product of `rows` rows of n elements, rounded as above. c: rows ldc bytes apart; it may be an operand that is not
// repeated. tables: of these encodings, or null.
void add(const Operand8& a, const Operand8& b, uint8_t* c, int64_t ldc, int64_t rows, int64_t n, const OutputSpec& out);
void add(const Operand8& a, const Operand8& b, uint8_t* c, int64_t ldc, int64_t rows, int64_t n, const OutputSpec& out,
         const SumTables* tables);

// A product by a factor for each byte of b (mul_args): the same bytes. Made once, from all 65,536 pairs; used where one row of b
// serves many of a.
struct ProductFactors {
  float of[256];
};
// Null where a byte of b has none: many of its products tie between two steps, where float roundings decide.
std::shared_ptr<const ProductFactors> product_factors(const Encoding8& ea, const Encoding8& eb, const OutputSpec& out);

// factors: of these encodings, or null.
void mul(const Operand8& a, const Operand8& b, uint8_t* c, int64_t ldc, int64_t rows, int64_t n, const OutputSpec& out);
void mul(const Operand8& a, const Operand8& b, uint8_t* c, int64_t ldc, int64_t rows, int64_t n, const OutputSpec& out,
         const ProductFactors* factors);

// y[i] = table[x[i]], table of 256.
void lut(const uint8_t* x, const uint8_t* table256, uint8_t* y, int64_t n);
// The same for `rows` rows of n elements, ldx and ldy bytes apart.
void lut(const uint8_t* x, int64_t ldx, const uint8_t* table256, uint8_t* y, int64_t ldy, int64_t rows, int64_t n);

// Throws Error(quantization) naming `what` unless the scale is finite and positive and the zero point lies in 0..255.
void check_encoding(const char* what, double scale, int64_t zero_point);

}  // namespace qgemm
