// A program while Python builds it and for as long as it runs, behind _core.ProgramBuilder.
#pragma once
#include <utility>

#include "bind.h"
#include "ops/matmul.h"
#include "program/program.h"
#include "tensors.h"

namespace qgemm {

using At = std::pair<int32_t, int64_t>;  // (buffer, offset in bytes)

inline Place place(const At& p) { return {p.first, p.second}; }

// What crosses the border of a program. Memory is C-contiguous in the order of `memory`; axis i of the tensor is axis order[i] of
// it.
struct Border {
  int32_t buffer;
  py::dtype dtype;
  dlpack::DataType type;
  std::vector<int64_t> memory;
  std::vector<int32_t> order;

  int rank() const { return static_cast<int>(memory.size()); }
  int64_t elements() const {
    int64_t n = 1;
    for (const int64_t d : memory) n *= d;
    return n;
  }
  // In elements.
  int64_t stride(int axis) const {
    int64_t s = 1;
    for (int i = order[static_cast<size_t>(axis)] + 1; i < rank(); ++i) s *= memory[static_cast<size_t>(i)];
    return s;
  }
  int64_t size(int axis) const { return memory[static_cast<size_t>(order[static_cast<size_t>(axis)])]; }

  template <class Stride>
  bool fits(int64_t ndim, const int64_t* shape, const Stride* strides, int64_t unit) const {
    if (ndim != rank()) return false;
    for (int i = 0; i < rank(); ++i) {
      if (shape[i] != size(i)) return false;
      if (strides && shape[i] != 1 && strides[i] != stride(i) * unit) return false;
    }
    if (!strides)
      for (int i = 0; i < rank(); ++i)
        if (order[static_cast<size_t>(i)] != i) return false;
    return true;
  }
};

inline Border border(int32_t buffer, const py::dtype& dtype, std::vector<int64_t> memory, std::vector<int32_t> order) {
  const char kind = dtype.kind();
  const uint8_t code = kind == 'f' ? dlpack::kFloat : kind == 'u' ? dlpack::kUInt : kind == 'b' ? dlpack::kBool : dlpack::kInt;
  return {buffer, dtype, {code, static_cast<uint8_t>(8 * dtype.itemsize()), 1}, std::move(memory), std::move(order)};
}

// A batch of matrices, [batch][rows][columns] or transposed: an operand of a product, or its result. Strides in elements; scale
// and zero point of bytes.
struct Matrix {
  At at;
  Batches batches;
  int64_t ld;
  bool transposed;
  double scale;
  int64_t zero_point;

  Batches bytes(int64_t element) const { return {batches.step * element, batches.inner, batches.outer * element}; }
};

struct Compiled {
  Program program;
  std::vector<py::object> kept;  // weights and constants: the program points into them
  std::vector<Border> inputs, outputs;

  // The most dimensions of an output.
  int widest() const {
    int most = 0;
    for (const Border& b : outputs) most = b.rank() > most ? b.rank() : most;
    return most;
  }
  int32_t constant(const py::array& a) {
    need_contiguous(a, "constant");
    kept.push_back(a);
    return program.constant(a.data(), a.nbytes());
  }

  // True when `bytes` at both places are whole buffers, so that the result may take over the input's.
  bool whole(const Place& from, const Place& to, int64_t bytes) const {
    return from.offset == 0 && to.offset == 0 && program.buffer_bytes(from.buffer) == bytes &&
           program.buffer_bytes(to.buffer) == bytes;
  }

  OutputSpec spec(bool floats, double scale, int64_t zero_point, std::optional<double> lo, std::optional<double> hi) const {
    return output_spec(floats ? OutType::f32 : OutType::u8, scale, zero_point, lo, hi);
  }
};

using CompiledClass = py::class_<Compiled, std::shared_ptr<Compiled>>;
// Operations of images and of two tensors.
void bind_program_layers(CompiledClass& c);
// Float convolution.
void bind_program_float(CompiledClass& c);

}  // namespace qgemm
