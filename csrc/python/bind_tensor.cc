// Linear layers on PyTorch tensors, through the DLPack C exchange API: no numpy view, no Python call on the way. What is not
// plain (another type, dtype, device or layout) answers None, and the caller takes the general road.
#include <limits>

#include "bind.h"
#include "dlpack.h"

namespace qgemm {
namespace {

const dlpack::ExchangeApi* g_api = nullptr;
PyTypeObject* g_type = nullptr;

// Takes the API that `type` publishes. False when it publishes none, or one of another major version.
bool use_tensors_of(const py::type& type) {
  if (!py::hasattr(type, "__dlpack_c_exchange_api__")) return false;
  const py::object capsule = type.attr("__dlpack_c_exchange_api__");
  auto* api = static_cast<const dlpack::ExchangeApi*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
  if (!api) {
    PyErr_Clear();
    return false;
  }
  if (api->header.version.major != 1 || !api->allocate || !api->managed_to_object || !api->tensor_from_object) return false;
  g_api = api;
  g_type = reinterpret_cast<PyTypeObject*>(type.ptr());
  type.inc_ref();  // the type's address stays valid
  return true;
}

// The plain tensor behind an object: of exactly the type, on the CPU, of this dtype, C-contiguous.
bool plain(PyObject* object, uint8_t code, uint8_t bits, dlpack::Tensor& t) {
  if (!g_api || Py_TYPE(object) != g_type) return false;
  if (g_api->tensor_from_object(object, &t) != 0) {
    PyErr_Clear();
    return false;
  }
  if (t.device.type != dlpack::kCpu || t.dtype.code != code || t.dtype.bits != bits || t.dtype.lanes != 1 || t.ndim < 1 ||
      t.ndim > 8)
    return false;
  if (t.strides) {
    int64_t expected = 1;
    for (int32_t i = t.ndim; i-- > 0;) {
      if (t.shape[i] != 1 && t.strides[i] != expected) return false;
      expected *= t.shape[i];
    }
  }
  return true;
}

char* address(const dlpack::Tensor& t) { return static_cast<char*>(t.data) + t.byte_offset; }

void set_error(void*, const char* kind, const char* message) {
  const py::gil_scoped_acquire gil;
  PyErr_SetString(std::string(kind) == "MemoryError" ? PyExc_MemoryError : PyExc_RuntimeError, message);
}

struct Operands {
  dlpack::Tensor x, packed;
  PackedView weight;
  int64_t rows;
  dlpack::ManagedTensor* out = nullptr;
};

// Operands and a fresh output of x's shape with the last dimension replaced. False: not plain.
bool prepare(PyObject* x, PyObject* packed, int64_t n, uint8_t x_code, uint8_t x_bits, dlpack::DataType out_type, Operands& o) {
  if (!plain(x, x_code, x_bits, o.x) || !plain(packed, dlpack::kUInt, 8, o.packed) || o.packed.ndim != 1) return false;
  o.weight = view(reinterpret_cast<const uint8_t*>(address(o.packed)), o.packed.shape[0]);
  const int64_t k = o.x.shape[o.x.ndim - 1];
  need_linear(o.weight, k, n);
  o.rows = 1;
  int64_t shape[8];
  for (int32_t i = 0; i + 1 < o.x.ndim; ++i) o.rows *= shape[i] = o.x.shape[i];
  shape[o.x.ndim - 1] = n;
  dlpack::Tensor like{nullptr, {dlpack::kCpu, 0}, o.x.ndim, out_type, shape, nullptr, 0};
  if (g_api->allocate(&like, &o.out, nullptr, set_error) != 0) throw py::error_already_set();
  return true;
}

py::object finish(Operands& o) {
  void* object = nullptr;
  if (g_api->managed_to_object(o.out, &object) != 0) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(static_cast<PyObject*>(object));
}

// Computes into the output; frees it when the computation throws.
template <class F>
py::object compute(Operands& o, F&& f) {
  try {
    py::gil_scoped_release release;
    f();
  } catch (...) {
    o.out->deleter(o.out);
    throw;
  }
  return finish(o);
}

py::object tensor_linear_dynamic(const py::object& x, const py::object& packed, int64_t n, bool per_row, bool symmetric) {
  Operands o;
  if (!prepare(x.ptr(), packed.ptr(), n, dlpack::kFloat, 32, {dlpack::kFloat, 32, 1}, o)) return py::none();
  return compute(o, [&] {
    need_dynamic(o.weight);
    const float infinity = std::numeric_limits<float>::infinity();
    linear_dynamic(o.weight, reinterpret_cast<const float*>(address(o.x)), o.rows, o.weight.k,
                   reinterpret_cast<float*>(address(o.out->tensor)), n * 4, per_row, symmetric, -infinity, infinity);
  });
}

py::object tensor_linear(const py::object& x, const py::object& packed, int64_t n, int type, double out_scale,
                         int64_t out_zero_point, std::optional<double> lo, std::optional<double> hi) {
  const OutputSpec spec = output_spec(static_cast<OutType>(type), out_scale, out_zero_point, lo, hi);
  const dlpack::DataType types[] = {{dlpack::kUInt, 8, 1}, {dlpack::kInt, 8, 1}, {dlpack::kInt, 32, 1}, {dlpack::kFloat, 32, 1}};
  Operands o;
  if (!prepare(x.ptr(), packed.ptr(), n, dlpack::kUInt, 8, types[type], o)) return py::none();
  return compute(o, [&] {
    linear(o.weight, reinterpret_cast<const uint8_t*>(address(o.x)), o.rows, o.weight.k, address(o.out->tensor),
           n * static_cast<ptrdiff_t>(out_size(spec.type)), spec);
  });
}

}  // namespace

void bind_tensor(py::module_& m) {
  using namespace py::literals;
  m.def("use_tensors_of", &use_tensors_of, "type"_a);
  m.def("tensor_linear_dynamic", &tensor_linear_dynamic, "x"_a, "packed"_a, "n"_a, "per_row"_a, "symmetric"_a);
  m.def("tensor_linear", &tensor_linear, "x"_a, "packed"_a, "n"_a, "type"_a, "out_scale"_a, "out_zero_point"_a, "lo"_a, "hi"_a);
}

}  // namespace qgemm
