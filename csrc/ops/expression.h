// Elementwise fp32 arithmetic over broadcast tensors, a whole expression at a time: blocks of values stay in L1 from the first
// operation to the last. Inputs may be bytes on a grid, booleans or integers; results fp32, bytes on a grid or booleans.
#pragma once
#include <cstdint>
#include <vector>

#include "ops/eltwise.h"
#include "ops/gemm.h"

namespace qgemm {

enum class Element : int32_t { f32 = 0, u8 = 1, boolean = 2, s32 = 3, s64 = 4 };

inline int64_t element_bytes(Element t) { return t == Element::f32 || t == Element::s32 ? 4 : t == Element::s64 ? 8 : 1; }

// Functions that are computed in fp64 by the C library, one value at a time, and rounded once: rare ones.
enum class Rare : int32_t { log = 0, sin, cos, softplus, mish, expm1, pow, mod };

struct Operation {
  enum Kind : int32_t { unary = 0, binary = 1, select = 2, rare = 3 };
  Kind kind;
  int32_t code;     // Unary, Binary or Rare
  int32_t args[3];  // values, by number; -1 where the operation takes fewer
  float p[4];       // Unary::round_to_grid
};

// Values are numbered: the inputs first, then the result of each operation. outputs: which of them leave.
struct Expression {
  int32_t inputs = 0;
  std::vector<Operation> operations;
  std::vector<int32_t> outputs;

  // Throws Error(shape) for a value that does not exist before it is used, or a code that names no operation.
  void check() const;
};

constexpr int kMaxDims = 8;

struct Source {
  const void* data;
  Element type;
  Encoding8 grid;             // u8
  int64_t strides[kMaxDims];  // elements; 0 where it is broadcast
};

// Contiguous over the iteration space. u8: spec; f32: spec is of no meaning; boolean: value != 0.
struct Sink {
  void* data;
  Element type;
  OutputSpec spec;
};

void evaluate(const Expression& e, int dims, const int64_t* shape, const Source* inputs, const Sink* outputs);

}  // namespace qgemm
