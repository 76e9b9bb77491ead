#include "tensors.h"

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <mutex>
#include <new>

namespace qgemm {
namespace tensors {
namespace {

const dlpack::ExchangeApi* g_api = nullptr;
PyTypeObject* g_type = nullptr;
// Held for the life of the process: torch does not unload.
std::vector<PyObject*> g_dtypes, g_watchers;
std::vector<std::pair<PyObject*, PyObject*>> g_flags;
PyObject* g_is_negated = nullptr;

std::vector<PyObject*> held(const py::sequence& objects) {
  std::vector<PyObject*> all;
  for (const py::handle o : objects) all.push_back(py::reinterpret_borrow<py::object>(o).release().ptr());
  return all;
}

bool truth(PyObject* result) {
  const py::object owned = py::reinterpret_steal<py::object>(result);
  const int v = owned ? PyObject_IsTrue(owned.ptr()) : -1;
  if (v < 0) throw py::error_already_set();
  return v != 0;
}

struct Block {
  dlpack::ManagedTensor managed;
  int64_t shape[kMostDims], strides[kMostDims];
  int64_t capacity;
  void* memory;  // as malloc gave it: the block begins at the next multiple of 64
};
constexpr int64_t kDataOffset = (sizeof(Block) + 63) / 64 * 64;

// Blocks that were freed, for the next results of their size. The system takes pages back when a block is freed that is large or
// lies at the end of the heap, and to map and clear them again costs as much as a product in it: 20 us for 45 kB, 4 ms for 16
// MiB.
class Recycled {
 public:
  static constexpr int64_t kLeast = int64_t(1) << 12, kMost = int64_t(1) << 26;

  Block* take(int64_t bytes) {
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (!lock) return nullptr;  // another thread's turn, or a child forked within it: there is always malloc
    int best = -1;
    for (int i = 0; i < count_; ++i)
      if (blocks_[i]->capacity >= bytes && blocks_[i]->capacity <= bytes + bytes / 4 &&
          (best < 0 || blocks_[i]->capacity <= blocks_[best]->capacity))
        best = i;
    return best < 0 ? nullptr : remove(best);
  }

  // False: not kept.
  bool keep(Block* b) {
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (!lock) return false;
    while (count_ == kCount || (count_ > 0 && bytes_ + b->capacity > kMost)) std::free(remove(0)->memory);
    blocks_[count_++] = b;
    bytes_ += b->capacity;
    return true;
  }

 private:
  static constexpr int kCount = 16;

  Block* remove(int i) {
    Block* b = blocks_[i];
    std::copy(blocks_ + i + 1, blocks_ + count_--, blocks_ + i);
    bytes_ -= b->capacity;
    return b;
  }

  std::mutex mutex_;
  Block* blocks_[kCount];  // the one that was freed first in front
  int count_ = 0;
  int64_t bytes_ = 0;
};

Recycled& recycled() {
  static auto* r = new Recycled;  // outlives the tensors that are freed at exit
  return *r;
}

bool recycles(int64_t bytes) { return bytes >= Recycled::kLeast && bytes <= Recycled::kMost; }

static_assert(offsetof(Block, managed) == 0, "a block is known by its first member");

void release(dlpack::ManagedTensor* t) {
  auto* b = reinterpret_cast<Block*>(t);
  if (!recycles(b->capacity) || !recycled().keep(b)) std::free(b->memory);
}

}  // namespace

bool use(const py::type& type, const py::sequence& dtypes, const py::sequence& watchers,
         const std::vector<std::pair<py::dict, py::str>>& flags, const py::object& is_negated) {
  if (!py::hasattr(type, "__dlpack_c_exchange_api__")) return false;
  const py::object capsule = type.attr("__dlpack_c_exchange_api__");
  auto* api = static_cast<const dlpack::ExchangeApi*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
  if (!api) {
    PyErr_Clear();
    return false;
  }
  if (api->header.version.major != 1 || !api->managed_to_object || !api->tensor_from_object) return false;
  g_dtypes = held(dtypes);
  g_watchers = held(watchers);
  g_flags.clear();
  for (const auto& f : flags) {
    PyObject* key = py::str(f.second).release().ptr();
    PyUnicode_InternInPlace(&key);
    g_flags.push_back({py::dict(f.first).release().ptr(), key});
  }
  g_is_negated = py::object(is_negated).release().ptr();
  g_type = reinterpret_cast<PyTypeObject*>(py::object(type).release().ptr());
  g_api = api;
  return true;
}

bool watched() {
  for (const auto& f : g_flags) {
    PyObject* value = PyDict_GetItemWithError(f.first, f.second);
    if (!value && PyErr_Occurred()) throw py::error_already_set();
    if (value && PyObject_IsTrue(value) != 0) return true;
  }
  for (PyObject* w : g_watchers)
    if (truth(PyObject_CallNoArgs(w))) return true;
  return false;
}

int dtype_code(PyObject* dtype) {
  for (size_t i = 0; i < g_dtypes.size(); ++i)
    if (g_dtypes[i] == dtype) return static_cast<int>(i);
  return -1;
}

bool is_tensor(PyObject* object) { return g_api && Py_TYPE(object) == g_type; }

bool strided(PyObject* object, uint8_t code, uint8_t bits, dlpack::Tensor& t) {
  if (!g_api || Py_TYPE(object) != g_type) return false;
  if (g_api->tensor_from_object(object, &t) != 0) {
    PyErr_Clear();
    return false;
  }
  return t.device.type == dlpack::kCpu && t.dtype.code == code && t.dtype.bits == bits && t.dtype.lanes == 1 && t.ndim >= 1 &&
         t.ndim <= kMostDims && reinterpret_cast<uintptr_t>(address(t)) % (bits / 8) == 0;
}

bool plain(PyObject* object, uint8_t code, uint8_t bits, dlpack::Tensor& t) {
  if (!strided(object, code, bits, t)) return false;
  if (t.strides) {
    int64_t expected = 1;
    for (int32_t i = t.ndim; i-- > 0;) {
      if (t.shape[i] != 1 && t.strides[i] != expected) return false;
      expected *= t.shape[i];
    }
  }
  return true;
}

bool channels_innermost(PyObject* object, uint8_t code, uint8_t bits, dlpack::Tensor& t) {
  if (!strided(object, code, bits, t) || t.ndim < 3 || !t.strides) return false;
  if (t.shape[1] != 1 && t.strides[1] != 1) return false;
  int64_t expected = t.shape[1];
  for (int32_t i = t.ndim; i-- > 0;) {
    if (i == 1) continue;
    if (t.shape[i] != 1 && t.strides[i] != expected) return false;
    expected *= t.shape[i];
  }
  return true;
}

bool negated(PyObject* object) { return truth(PyObject_CallOneArg(g_is_negated, object)); }

Fresh::~Fresh() {
  if (block_) release(block_);
}

bool Fresh::allocate(const int64_t* shape, int32_t ndim, dlpack::DataType type, bool channels_innermost) {
  int64_t bytes = type.bits / 8;
  for (int32_t i = 0; i < ndim; ++i)
    if (__builtin_mul_overflow(bytes, shape[i], &bytes)) return false;
  if (bytes > INT64_MAX - 2 * kDataOffset) return false;
  int64_t strides[kMostDims], stride = 1;
  auto place = [&](int32_t i) {
    strides[i] = stride;
    return shape[i] <= 1 || !__builtin_mul_overflow(stride, shape[i], &stride);
  };
  if (channels_innermost && !place(1)) return false;
  for (int32_t i = ndim; i-- > 0;)
    if (!(channels_innermost && i == 1) && !place(i)) return false;
  const int64_t needed = (kDataOffset + bytes + 63) / 64 * 64;
  Block* b = recycles(needed) ? recycled().take(needed) : nullptr;
  if (!b) {
    // Not aligned_alloc, which cuts a larger piece of the heap to size: on a small result that takes longer than the product.
    void* memory = std::malloc(static_cast<size_t>(needed + 63));
    if (!memory) throw std::bad_alloc();
    b = new (reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(memory) + 63) / 64 * 64)) Block;
    b->capacity = needed;
    b->memory = memory;
  }
  std::copy_n(shape, ndim, b->shape);
  std::copy_n(strides, ndim, b->strides);
  const dlpack::Tensor t{reinterpret_cast<char*>(b) + kDataOffset, {dlpack::kCpu, 0}, ndim, type, b->shape, b->strides, 0};
  b->managed = {g_api->header.version, nullptr, release, 0, t};
  block_ = &b->managed;
  return true;
}

void Fresh::view_as(const int64_t* shape, const int64_t* strides) {
  std::copy_n(shape, block_->tensor.ndim, block_->tensor.shape);
  std::copy_n(strides, block_->tensor.ndim, block_->tensor.strides);
}

py::object Fresh::give() {
  void* object = nullptr;
  // Torch's from here on: whether it has freed what it could not wrap is not ours to know.
  dlpack::ManagedTensor* given = std::exchange(block_, nullptr);
  if (g_api->managed_to_object(given, &object) != 0) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(static_cast<PyObject*>(object));
}

}  // namespace tensors
}  // namespace qgemm
