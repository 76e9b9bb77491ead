// Linear layers on PyTorch tensors, through the DLPack C exchange API: no numpy view, no Python call on the way. What is not
// plain (another type, dtype, device, layout or alignment) answers None, and the caller takes the general road.
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

char* address(const dlpack::Tensor& t) { return static_cast<char*>(t.data) + t.byte_offset; }

// The plain tensor behind an object: of exactly the type, on the CPU, of this dtype, C-contiguous, at a multiple of `align`
// bytes.
bool plain(PyObject* object, uint8_t code, uint8_t bits, uintptr_t align, dlpack::Tensor& t) {
  if (!g_api || Py_TYPE(object) != g_type) return false;
  if (g_api->tensor_from_object(object, &t) != 0) {
    PyErr_Clear();
    return false;
  }
  if (t.device.type != dlpack::kCpu || t.dtype.code != code || t.dtype.bits != bits || t.dtype.lanes != 1 || t.ndim < 1 ||
      t.ndim > 8 || reinterpret_cast<uintptr_t>(address(t)) % align != 0)
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
  if (!plain(x, x_code, x_bits, x_bits / 8, o.x) || !plain(packed, dlpack::kUInt, 8, 8, o.packed) || o.packed.ndim != 1)
    return false;
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

// Two functions of the C calling convention: pybind11's argument loading costs as much as the rest of a tiny product.
// Arguments are positional; errors are raised as the rest of the module raises them.

struct Arguments {
  PyObject* const* values;
  Py_ssize_t count;

  void expect(Py_ssize_t n) const {
    if (count != n) throw py::type_error("expected " + std::to_string(n) + " positional arguments, got " + std::to_string(count));
  }
  int64_t integer(int i) const {
    const int64_t v = PyLong_AsLongLong(values[i]);
    if (v == -1 && PyErr_Occurred()) throw py::error_already_set();
    return v;
  }
  double number(int i) const {
    const double v = PyFloat_AsDouble(values[i]);
    if (v == -1.0 && PyErr_Occurred()) throw py::error_already_set();
    return v;
  }
  bool truth(int i) const {
    const int v = PyObject_IsTrue(values[i]);
    if (v < 0) throw py::error_already_set();
    return v != 0;
  }
  std::optional<double> number_or_none(int i) const {
    return values[i] == Py_None ? std::nullopt : std::optional<double>(number(i));
  }
};

// (x, packed, n, per_row, symmetric)
py::object tensor_linear_dynamic(const Arguments& a) {
  a.expect(5);
  const int64_t n = a.integer(2);
  const bool per_row = a.truth(3), symmetric = a.truth(4);
  Operands o;
  if (!prepare(a.values[0], a.values[1], n, dlpack::kFloat, 32, {dlpack::kFloat, 32, 1}, o)) return py::none();
  return compute(o, [&] {
    need_dynamic(o.weight);
    const float infinity = std::numeric_limits<float>::infinity();
    linear_dynamic(o.weight, reinterpret_cast<const float*>(address(o.x)), o.rows, o.weight.k,
                   reinterpret_cast<float*>(address(o.out->tensor)), n * 4, per_row, symmetric, -infinity, infinity);
  });
}

// (x, packed, n, type, out_scale, out_zero_point, lo, hi)
py::object tensor_linear(const Arguments& a) {
  a.expect(8);
  const int64_t n = a.integer(2), type = a.integer(3);
  if (type < 0 || type > 3) throw Error(Code::dtype, "type must be 0 (uint8), 1 (int8), 2 (int32) or 3 (float32)");
  const OutputSpec spec =
      output_spec(static_cast<OutType>(type), a.number(4), a.integer(5), a.number_or_none(6), a.number_or_none(7));
  const dlpack::DataType types[] = {{dlpack::kUInt, 8, 1}, {dlpack::kInt, 8, 1}, {dlpack::kInt, 32, 1}, {dlpack::kFloat, 32, 1}};
  Operands o;
  if (!prepare(a.values[0], a.values[1], n, dlpack::kUInt, 8, types[type], o)) return py::none();
  return compute(o, [&] {
    linear(o.weight, reinterpret_cast<const uint8_t*>(address(o.x)), o.rows, o.weight.k, address(o.out->tensor),
           n * static_cast<ptrdiff_t>(out_size(spec.type)), spec);
  });
}

template <py::object (*function)(const Arguments&)>
PyObject* fast(PyObject*, PyObject* const* values, Py_ssize_t count) {
  try {
    return function({values, count}).release().ptr();
  } catch (const Error& e) {
    raise(e);
  } catch (py::error_already_set& e) {
    e.restore();
  } catch (const py::builtin_exception& e) {
    e.set_error();
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::exception& e) {
    PyErr_SetString(PyExc_RuntimeError, e.what());
  }
  return nullptr;
}

PyMethodDef g_fast[] = {
    {"tensor_linear_dynamic", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(fast<tensor_linear_dynamic>)),
     METH_FASTCALL, nullptr},
    {"tensor_linear", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(fast<tensor_linear>)), METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr}};

}  // namespace

void bind_tensor(py::module_& m) {
  using namespace py::literals;
  m.def("use_tensors_of", &use_tensors_of, "type"_a);
  if (PyModule_AddFunctions(m.ptr(), g_fast) != 0) throw py::error_already_set();
}

}  // namespace qgemm
