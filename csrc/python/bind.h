// Strict views of numpy arrays: nothing is converted or copied, and what does not fit is a typed error that says what would.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "cpu/error.h"
#include "kernels/api.h"
#include "ops/gemm.h"
#include "ops/window.h"
#include "pack/transposed.h"

namespace qgemm {
namespace py = pybind11;

template <class T>
inline const char* dtype_name();
template <>
inline const char* dtype_name<uint8_t>() {
  return "uint8";
}
template <>
inline const char* dtype_name<int8_t>() {
  return "int8";
}
template <>
inline const char* dtype_name<uint16_t>() {
  return "uint16";
}
template <>
inline const char* dtype_name<int16_t>() {
  return "int16";
}
template <>
inline const char* dtype_name<int32_t>() {
  return "int32";
}
template <>
inline const char* dtype_name<int64_t>() {
  return "int64";
}
template <>
inline const char* dtype_name<float>() {
  return "float32";
}

inline std::string shape_of(const py::array& a) {
  std::string s = "(";
  for (py::ssize_t i = 0; i < a.ndim(); ++i) s += (i ? ", " : "") + std::to_string(a.shape(i));
  return s + (a.ndim() == 1 ? ",)" : ")");
}

template <class T>
inline bool is(const py::array& a) {
  return py::isinstance<py::array_t<T>>(a);
}

inline std::string dtype_of(const py::array& a) { return py::str(a.dtype()); }

template <class T>
inline void need_dtype(const py::array& a, const char* name) {
  if (!is<T>(a))
    throw Error(Code::dtype,
                std::string(name) + " must be " + dtype_name<T>() + ", got " + dtype_of(a) + "; convert it explicitly");
}

inline void need_rank(const py::array& a, const char* name, int rank, const char* meaning) {
  if (a.ndim() != rank)
    throw Error(Code::shape, std::string(name) + " must have " + std::to_string(rank) + " dimensions " + meaning +
                                 ", got shape " + shape_of(a));
}

inline bool is_empty(const py::array& a) { return a.size() == 0; }

// Addresses and strides that are multiples of the element's size: what C++ assumes of a float* and a numpy view need not have.
inline void need_aligned(const py::array& a, const char* name) {
  if (!(a.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_))
    throw Error(
        Code::layout,
        std::string(name) + " is not aligned to its elements; pass a copy of it, such as numpy.require(x, requirements='A')");
}

inline void need_contiguous(const py::array& a, const char* name) {
  need_aligned(a, name);
  if (!(a.flags() & py::array::c_style) && !is_empty(a))
    throw Error(Code::layout, std::string(name) + " must be C-contiguous; pass numpy.ascontiguousarray of it");
}

// Rows of a matrix may be strided, elements of a row may not.
inline void need_rows(const py::array& a, const char* name) {
  if (is_empty(a)) return;
  need_aligned(a, name);
  if (a.shape(1) > 1 && a.strides(1) != a.itemsize())
    throw Error(Code::layout, std::string(name) + ": the last axis must be contiguous; pass numpy.ascontiguousarray of it");
  if (a.shape(0) > 1 && a.strides(0) < a.shape(1) * a.itemsize())
    throw Error(Code::layout, std::string(name) + ": rows must not overlap or run backwards; pass numpy.ascontiguousarray of it");
}

inline void need_writeable(const py::array& a, const char* name) {
  if (!a.writeable()) throw Error(Code::layout, std::string(name) + " is read-only; allocate it with numpy.empty");
}

// First and one-past-last byte an array with non-negative strides touches.
inline std::pair<const char*, const char*> extent(const py::array& a) {
  const char* p = static_cast<const char*>(a.data());
  if (is_empty(a)) return {p, p};
  py::ssize_t last = a.itemsize();
  for (py::ssize_t i = 0; i < a.ndim(); ++i) last += (a.shape(i) - 1) * a.strides(i);
  return {p, p + last};
}

inline void need_apart(const py::array& out, const py::array& in, const char* name) {
  const auto o = extent(out), i = extent(in);
  if (o.first < i.second && i.first < o.second)
    throw Error(Code::layout, std::string("out overlaps ") + name + "; give the result memory of its own");
}

inline void need_same_shape(const py::array& a, const char* a_name, const py::array& b, const char* b_name) {
  bool same = a.ndim() == b.ndim();
  for (py::ssize_t i = 0; same && i < a.ndim(); ++i) same = a.shape(i) == b.shape(i);
  if (!same)
    throw Error(Code::shape,
                std::string(a_name) + " must have the shape of " + b_name + ", " + shape_of(b) + ", got " + shape_of(a));
}

// An output of its own: writeable, contiguous, apart from the input.
inline void need_output(const py::array& out, const py::array& in, const char* in_name) {
  need_contiguous(out, "out");
  need_writeable(out, "out");
  need_apart(out, in, in_name);
}

template <class T>
inline const T* vector_of(const py::array& a, const char* name, int64_t count) {
  need_dtype<T>(a, name);
  need_rank(a, name, 1, "");
  need_contiguous(a, name);
  if (a.shape(0) != count)
    throw Error(Code::shape,
                std::string(name) + " must have " + std::to_string(count) + " elements, got " + std::to_string(a.shape(0)));
  return static_cast<const T*>(a.data());
}

template <class T>
inline const T* vector_or_null(const std::optional<py::array>& a, const char* name, int64_t count) {
  return a ? vector_of<T>(*a, name, count) : nullptr;
}

inline PackedView view_of(const py::array& packed) {
  need_dtype<uint8_t>(packed, "packed");
  need_rank(packed, "packed", 1, "");
  need_contiguous(packed, "packed");
  if (reinterpret_cast<uintptr_t>(packed.data()) % 8 != 0)
    throw Error(Code::packed, "the packed weight must be 8-byte aligned; copy it into a fresh array");
  return view(static_cast<const uint8_t*>(packed.data()), packed.shape(0));
}

TransposedView transposed_view_of(const py::array& packed);

// The output's grid from its dtype and the caller's scale, zero point and bounds.
OutputSpec output_spec(OutType type, double scale, int64_t zero_point, std::optional<double> lo, std::optional<double> hi);
OutputSpec output_spec(const py::array& out, double scale, int64_t zero_point, std::optional<double> lo,
                       std::optional<double> hi);

// A weight for a linear layer of K = k (`shape`: of x, for the message), of N = n, for dynamic inputs.
void need_k(const PackedView& w, int64_t k, const std::string& shape);
void need_linear(const PackedView& w, int64_t k, int64_t n);
void need_dynamic(const PackedView& w);

// Everything of a weight that is given besides its values and dimensions, into `s`, whose n is set.
void pack_arguments(PackSpec& s, const py::array& scale, const std::optional<py::array>& zero_point,
                    const std::optional<py::array>& bias, const std::optional<py::array>& bias_int32, int bits, double x_scale,
                    int64_t x_zero_point, const std::string& name);

// Rows of s8 bytes as the u8 that kernels read: 128 is added to the value, and belongs to the zero point that was packed. In
// memory of this thread's, until its next call.
const uint8_t* unsigned_rows(const uint8_t* x, int64_t rows, int64_t k, ptrdiff_t ldx);

// A 1-D uint8 array whose data is 64-byte aligned.
py::array_t<uint8_t> aligned_bytes(int64_t count);

// Sets the Python error of qgemm.errors that an engine error stands for.
void raise(const Error& e);
// In a catch block of a plain C function: sets the Python error that the exception stands for, and returns null.
PyObject* raise_current();

void bind_gemm(py::module_& m);
void bind_images(py::module_& m);
void bind_float(py::module_& m);
void bind_ops(py::module_& m);
void bind_product(py::module_& m);
void bind_rows(py::module_& m);
void bind_taps(py::module_& m);
void bind_expression(py::module_& m);
void bind_tensor(py::module_& m);
void bind_program(py::module_& m);

// x: the shape of an NHWC image; padding: top, left, bottom, right. Not checked.
inline Window window(const std::array<int64_t, 4>& x, const std::array<int64_t, 2>& kernel, const std::array<int64_t, 2>& stride,
                     const std::array<int64_t, 4>& padding, const std::array<int64_t, 2>& dilation) {
  Window g;
  g.batch = x[0];
  g.h = x[1];
  g.w = x[2];
  g.c = x[3];
  g.kh = kernel[0];
  g.kw = kernel[1];
  g.stride_h = stride[0];
  g.stride_w = stride[1];
  g.top = padding[0];
  g.left = padding[1];
  g.bottom = padding[2];
  g.right = padding[3];
  g.dilation_h = dilation[0];
  g.dilation_w = dilation[1];
  return g;
}

}  // namespace qgemm
