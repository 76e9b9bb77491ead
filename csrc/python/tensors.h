// PyTorch tensors as memory, and memory as PyTorch tensors, through the DLPack C exchange API: no numpy view and no Python call
// on the way. Everything here needs the GIL.
#pragma once
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "dlpack.h"

namespace qgemm {
namespace py = pybind11;
namespace tensors {

constexpr int kMostDims = 8;

// Takes the API that `type` (torch.Tensor) publishes. False when it publishes none, or one of another major version: then no
// object is plain. `dtypes`: torch's uint8, int8, int32 and float32, in the order of OutType. `watchers`: functions without
// arguments that are true while somebody watches the dispatcher; `flags`: pairs (dictionary, key) whose values are, which are
// read in a third of the time of a call. `is_negated`: torch.Tensor.is_neg.
bool use(const py::type& type, const py::sequence& dtypes, const py::sequence& watchers,
         const std::vector<std::pair<py::dict, py::str>>& flags, const py::object& is_negated);

bool watched();

// Whether the object is of exactly the type.
bool is_tensor(PyObject* object);

// Position among the dtypes given to use(), or -1.
int dtype_code(PyObject* dtype);

// The memory behind an object of exactly the type, on the CPU, of this dtype, aligned to its elements and of 1 to kMostDims
// dimensions. False otherwise. The shape and strides belong to the object.
bool strided(PyObject* object, uint8_t code, uint8_t bits, dlpack::Tensor& t);
// The same, C-contiguous.
bool plain(PyObject* object, uint8_t code, uint8_t bits, dlpack::Tensor& t);
// A float tensor that is a negated view: its memory has the other sign.
bool negated(PyObject* object);

inline char* address(const dlpack::Tensor& t) { return static_cast<char*>(t.data) + t.byte_offset; }

// The same, [B, C, L] or [B, C, H, W] with the channels innermost and otherwise dense.
bool channels_innermost(PyObject* object, uint8_t code, uint8_t bits, dlpack::Tensor& t);

// A fresh dense tensor in memory of our own, at a multiple of 64 bytes. One allocation holds description and elements: a
// third of the time of an allocation by torch, which makes a tensor of its own behind the one it gives out. Blocks of 4 KiB and
// more are kept for reuse when they are freed, up to 64 MiB.
class Fresh {
 public:
  Fresh() = default;
  Fresh(const Fresh&) = delete;
  Fresh& operator=(const Fresh&) = delete;
  ~Fresh();

  // C-contiguous, or [B, C, ...] with the channels innermost. False when the size does not fit 63 bits. Throws std::bad_alloc.
  bool allocate(const int64_t* shape, int32_t ndim, dlpack::DataType type, bool channels_innermost = false);
  char* data() const { return static_cast<char*>(block_->tensor.data); }
  // The same memory seen with other axes: shape and strides (in elements) of as many dimensions.
  void view_as(const int64_t* shape, const int64_t* strides);
  // Gives the memory away as an object of the type.
  py::object give();

 private:
  dlpack::ManagedTensor* block_ = nullptr;
};

}  // namespace tensors
}  // namespace qgemm
