// Products and convolutions on PyTorch tensors. What is not plain (another type, dtype, device, layout or alignment) answers
// None, and the caller takes the general road, which copies or says what is wrong.
#include <algorithm>
#include <limits>

#include "bind.h"
#include "ops/conv.h"
#include "ops/matmul.h"
#include "ops/quantize.h"
#include "ops/threads.h"
#include "tensors.h"

namespace qgemm {
namespace {

using tensors::address;
using tensors::Fresh;
using tensors::plain;

// Functions of the C calling convention: pybind11's argument loading costs as much as the rest of a tiny product. Arguments are
// positional; errors are raised as the rest of the module raises them.
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

// Runs f without the GIL, unless the work is over before another thread could take it.
template <class F>
void compute(int64_t macs, F&& f) {
  if (macs < kGrainMacs) {
    f();
    return;
  }
  py::gil_scoped_release release;
  f();
}

// x [..., K], a packed weight and a fresh output [..., N].
struct Linear {
  dlpack::Tensor x, packed;
  PackedView weight;
  int64_t rows, macs;
  Fresh out;

  // False: not plain.
  bool prepare(PyObject* x_object, PyObject* packed_object, int64_t n, uint8_t code, uint8_t bits, dlpack::DataType out_type) {
    if (!plain(x_object, code, bits, x) || !plain(packed_object, dlpack::kUInt, 8, packed) || packed.ndim != 1 ||
        reinterpret_cast<uintptr_t>(address(packed)) % 8 != 0)
      return false;
    weight = view(reinterpret_cast<const uint8_t*>(address(packed)), packed.shape[0]);
    need_linear(weight, x.shape[x.ndim - 1], n);
    int64_t shape[tensors::kMostDims];
    rows = 1;
    for (int32_t i = 0; i + 1 < x.ndim; ++i)
      if (__builtin_mul_overflow(rows, shape[i] = x.shape[i], &rows)) return false;
    shape[x.ndim - 1] = n;
    if (!out.allocate(shape, x.ndim, out_type)) return false;
    macs = rows * n * std::max<int64_t>(weight.k, 1);
    return true;
  }
  template <class T>
  const T* input() const {
    return reinterpret_cast<const T*>(address(x));
  }
};

constexpr dlpack::DataType kFloat32{dlpack::kFloat, 32, 1};
constexpr dlpack::DataType kOutTypes[] = {{dlpack::kUInt, 8, 1}, {dlpack::kInt, 8, 1}, {dlpack::kInt, 32, 1}, kFloat32};

// (x, packed, n, dtype, out_scale, out_zero_point, lo, hi)
py::object tensor_linear(const Arguments& a) {
  a.expect(8);
  const int type = tensors::dtype_code(a.values[3]);
  if (type < 0) return py::none();
  const OutputSpec spec =
      output_spec(static_cast<OutType>(type), a.number(4), a.integer(5), a.number_or_none(6), a.number_or_none(7));
  Linear o;
  const int64_t n = a.integer(2);
  const bool is_unsigned = o.prepare(a.values[0], a.values[1], n, dlpack::kUInt, 8, kOutTypes[type]);
  if (!is_unsigned && !o.prepare(a.values[0], a.values[1], n, dlpack::kInt, 8, kOutTypes[type])) return py::none();
  compute(o.macs, [&] {
    const uint8_t* x = o.input<uint8_t>();
    if (!is_unsigned) x = unsigned_rows(x, o.rows, o.weight.k, o.weight.k);
    linear(o.weight, x, o.rows, o.weight.k, o.out.data(), n * static_cast<ptrdiff_t>(out_size(spec.type)), spec);
  });
  return o.out.give();
}

// (x, packed, n, per_row, symmetric, lo, hi)
py::object tensor_linear_dynamic(const Arguments& a) {
  a.expect(7);
  const bool per_row = a.truth(3), symmetric = a.truth(4);
  const OutputSpec spec = output_spec(OutType::f32, 1.0, 0, a.number_or_none(5), a.number_or_none(6));
  Linear o;
  const int64_t n = a.integer(2);
  if (!o.prepare(a.values[0], a.values[1], n, dlpack::kFloat, 32, kFloat32) || tensors::negated(a.values[0])) return py::none();
  need_dynamic(o.weight);
  compute(o.macs, [&] {
    linear_dynamic(o.weight, o.input<float>(), o.rows, o.weight.k, reinterpret_cast<float*>(o.out.data()), n * 4, per_row,
                   symmetric, spec.f_lo, spec.f_hi);
  });
  return o.out.give();
}

// (x, scale, zero_point, packed, n): x quantized with a given encoding, float32 out.
py::object tensor_linear_static(const Arguments& a) {
  a.expect(5);
  dlpack::Tensor scale, zero_point;
  if (!plain(a.values[1], dlpack::kFloat, 32, scale) || !plain(a.values[2], dlpack::kInt, 32, zero_point) || scale.ndim != 1 ||
      zero_point.ndim != 1 || scale.shape[0] != 1 || zero_point.shape[0] != 1)
    return py::none();
  Linear o;
  const int64_t n = a.integer(4);
  if (!o.prepare(a.values[0], a.values[3], n, dlpack::kFloat, 32, kFloat32) || tensors::negated(a.values[0])) return py::none();
  const OutputSpec spec = output_spec(OutType::f32, 1.0, 0, std::nullopt, std::nullopt);
  compute(o.macs, [&] {
    static thread_local Scratch<uint8_t> quantized;
    const int64_t k = o.weight.k;
    uint8_t* q = quantized.get(o.rows * k);
    quantize(o.input<float>(), q, {1, false}, {1, 1, o.rows * k}, reinterpret_cast<const float*>(address(scale)),
             reinterpret_cast<const int32_t*>(address(zero_point)), 0, 255);
    linear(o.weight, q, o.rows, k, o.out.data(), n * 4, spec);
  });
  return o.out.give();
}

// A stack of matrices in memory: rows or columns contiguous, any distance between the matrices.
struct Matrices {
  dlpack::Tensor t;
  MatmulOperand operand{};
  int64_t rows, columns;

  int64_t stride(int32_t i) const { return t.strides[i]; }

  bool prepare(PyObject* object, double scale, int64_t zero_point) {
    operand.is_signed = tensors::strided(object, dlpack::kInt, 8, t);
    if ((!operand.is_signed && !tensors::strided(object, dlpack::kUInt, 8, t)) || t.ndim < 2 || !t.strides) return false;
    if (zero_point < -128 || zero_point > 255) return false;
    rows = t.shape[t.ndim - 2];
    columns = t.shape[t.ndim - 1];
    const int64_t down = stride(t.ndim - 2), right = stride(t.ndim - 1);
    if ((columns <= 1 || right == 1) && (rows <= 1 || down >= columns)) {
      operand.ld = rows <= 1 ? columns : down;
    } else if ((rows <= 1 || down == 1) && (columns <= 1 || right >= rows)) {
      operand.ld = columns <= 1 ? rows : right;
      operand.transposed = true;
    } else {
      return false;
    }
    operand.data = reinterpret_cast<const uint8_t*>(address(t));
    operand.scale = static_cast<float>(scale);
    operand.zero_point = static_cast<int32_t>(zero_point);
    return true;
  }
};

// Leading dimensions that a and b have in common, as few as their strides allow.
struct Batches {
  int32_t count = 0;
  int64_t size[tensors::kMostDims], a[tensors::kMostDims], b[tensors::kMostDims];

  void add(int64_t n, int64_t stride_a, int64_t stride_b) {
    if (n == 1) return;
    if (count > 0 && a[count - 1] == n * stride_a && b[count - 1] == n * stride_b) {
      size[count - 1] *= n;
      a[count - 1] = stride_a;
      b[count - 1] = stride_b;
      return;
    }
    size[count] = n;
    a[count] = stride_a;
    b[count++] = stride_b;
  }
};

// (a, b, a_scale, a_zero_point, b_scale, b_zero_point, dtype, out_scale, out_zero_point, lo, hi)
py::object tensor_matmul(const Arguments& arguments) {
  const Arguments& p = arguments;
  p.expect(11);
  const int type = tensors::dtype_code(p.values[6]);
  Matrices a, b;
  if (type < 0 || !a.prepare(p.values[0], p.number(2), p.integer(3)) || !b.prepare(p.values[1], p.number(4), p.integer(5)) ||
      a.t.ndim != b.t.ndim || a.columns != b.rows)
    return py::none();
  const OutputSpec spec =
      output_spec(static_cast<OutType>(type), p.number(7), p.integer(8), p.number_or_none(9), p.number_or_none(10));
  const int32_t leading = a.t.ndim - 2;
  int64_t shape[tensors::kMostDims];
  Batches batches;
  for (int32_t i = 0; i < leading; ++i) {
    if (a.t.shape[i] != b.t.shape[i]) return py::none();
    shape[i] = a.t.shape[i];
    batches.add(shape[i], a.stride(i), b.stride(i));
  }
  if (batches.count > 2) return py::none();
  const int64_t m = shape[leading] = a.rows, n = shape[leading + 1] = b.columns, k = a.columns;
  Fresh out;
  if (!out.allocate(shape, a.t.ndim, kOutTypes[type])) return py::none();
  // The last of the batch's dimensions is the driver's own, one before it a loop here.
  const int32_t last = batches.count - 1;
  const int64_t inner = last >= 0 ? batches.size[last] : 1, outer = last >= 1 ? batches.size[0] : 1;
  const ptrdiff_t ldc = n * static_cast<ptrdiff_t>(out_size(spec.type));
  if (last >= 0) {
    a.operand.batches = batches.a[last];
    b.operand.batches = batches.b[last];
  }
  compute(outer * inner * m * n * std::max<int64_t>(k, 1), [&] {
    for (int64_t i = 0; i < outer; ++i) {
      MatmulOperand x = a.operand, y = b.operand;
      if (last >= 1) {
        x.data += i * batches.a[0];
        y.data += i * batches.b[0];
      }
      matmul(inner, m, n, k, x, y, out.data() + i * inner * m * ldc, m * ldc, ldc, spec);
    }
  });
  return out.give();
}

// `count` integers of a tuple or list.
bool integers(PyObject* object, Py_ssize_t count, int64_t* values) {
  const bool tuple = PyTuple_Check(object);
  if ((!tuple && !PyList_Check(object)) || PySequence_Fast_GET_SIZE(object) != count) return false;
  for (Py_ssize_t i = 0; i < count; ++i) {
    PyObject* item = PySequence_Fast_GET_ITEM(object, i);
    if (!PyLong_Check(item)) return false;
    values[i] = PyLong_AsLongLong(item);
    if (values[i] == -1 && PyErr_Occurred()) throw py::error_already_set();
  }
  return true;
}

// (x, packed, out_channels, kernel_size, stride, padding, dilation, dtype, out_scale, out_zero_point, lo, hi); x: uint8 [B, C, L]
// or [B, C, H, W] with the channels innermost, as the result has them.
template <int spatial>
py::object tensor_conv(const Arguments& p) {
  p.expect(12);
  const int type = tensors::dtype_code(p.values[7]);
  dlpack::Tensor x, packed;
  int64_t kernel[2] = {1, 1}, stride[2] = {1, 1}, padding[4], dilation[2] = {1, 1};
  constexpr int first = 2 - spatial;
  if (type < 0 || !tensors::channels_innermost(p.values[0], dlpack::kUInt, 8, x) || x.ndim != 2 + spatial ||
      !plain(p.values[1], dlpack::kUInt, 8, packed) || packed.ndim != 1 ||
      reinterpret_cast<uintptr_t>(address(packed)) % 8 != 0 || !integers(p.values[3], spatial, kernel + first) ||
      !integers(p.values[4], spatial, stride + first) || !integers(p.values[5], 2 * spatial, padding) ||
      !integers(p.values[6], spatial, dilation + first))
    return py::none();
  const PackedView weight = view(reinterpret_cast<const uint8_t*>(address(packed)), packed.shape[0]);
  if (weight.kind == PackedKind::linear || weight.n != p.integer(2) || weight.kh != kernel[0] || weight.kw != kernel[1])
    return py::none();
  Window g;
  g.batch = x.shape[0];
  g.c = x.shape[1];
  g.h = spatial == 2 ? x.shape[2] : 1;
  g.w = x.shape[x.ndim - 1];
  g.kh = kernel[0];
  g.kw = kernel[1];
  g.stride_h = stride[0];
  g.stride_w = stride[1];
  g.top = spatial == 2 ? padding[0] : 0;
  g.left = padding[spatial - 1];
  g.bottom = spatial == 2 ? padding[2] : 0;
  g.right = padding[2 * spatial - 1];
  g.dilation_h = dilation[0];
  g.dilation_w = dilation[1];
  // The general road names what is wrong.
  for (const int64_t v : {g.stride_h, g.stride_w, g.dilation_h, g.dilation_w})
    if (v < 1) return py::none();
  for (const int64_t v : {g.top, g.left, g.bottom, g.right})
    if (v < 0) return py::none();
  g.check("conv2d");
  const int64_t out_h = g.out_h(), out_w = g.out_w();
  if (g.batch < 1 || out_h < 1 || out_w < 1) return py::none();  // nothing to compute, or a window larger than its image
  const OutputSpec spec =
      output_spec(static_cast<OutType>(type), p.number(8), p.integer(9), p.number_or_none(10), p.number_or_none(11));
  int64_t shape[4] = {g.batch, weight.n, out_h, out_w};
  if (spatial == 1) shape[2] = out_w;
  Fresh out;
  if (!out.allocate(shape, x.ndim, kOutTypes[type], true)) return py::none();
  compute(g.batch * out_h * out_w * weight.n * std::max<int64_t>(weight.k, 1),
          [&] { conv2d(weight, g, reinterpret_cast<const uint8_t*>(address(x)), out.data(), spec); });
  return out.give();
}

template <py::object (*function)(const Arguments&)>
PyObject* always(PyObject*, PyObject* const* values, Py_ssize_t count) {
  try {
    return function({values, count}).release().ptr();
  } catch (...) {
    return raise_current();
  }
}

// None while somebody watches the dispatcher: what does not pass through it would not be seen.
template <py::object (*function)(const Arguments&)>
PyObject* unwatched(PyObject*, PyObject* const* values, Py_ssize_t count) {
  try {
    return (tensors::watched() ? py::none() : function({values, count})).release().ptr();
  } catch (...) {
    return raise_current();
  }
}

using Fast = PyObject* (*)(PyObject*, PyObject* const*, Py_ssize_t);

PyMethodDef method(const char* name, Fast f) {
  return {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(f)), METH_FASTCALL, nullptr};
}

PyMethodDef g_fast[] = {method("tensor_linear", always<tensor_linear>),
                        method("tensor_linear_dynamic", always<tensor_linear_dynamic>),
                        method("tensor_matmul", always<tensor_matmul>),
                        method("tensor_conv1d", always<tensor_conv<1>>),
                        method("tensor_conv2d", always<tensor_conv<2>>),
                        method("eager_linear", unwatched<tensor_linear>),
                        method("eager_linear_dynamic", unwatched<tensor_linear_dynamic>),
                        method("eager_linear_static", unwatched<tensor_linear_static>),
                        method("eager_matmul", unwatched<tensor_matmul>),
                        method("eager_conv1d", unwatched<tensor_conv<1>>),
                        method("eager_conv2d", unwatched<tensor_conv<2>>),
                        {nullptr, nullptr, 0, nullptr}};

}  // namespace

void bind_tensor(py::module_& m) {
  using namespace py::literals;
  m.def("use_tensors_of", &tensors::use, "type"_a, "dtypes"_a, "watchers"_a, "flags"_a, "is_negated"_a);
  if (PyModule_AddFunctions(m.ptr(), g_fast) != 0) throw py::error_already_set();
}

}  // namespace qgemm
