// Softmax and the normalizations of rows.
#include "bind.h"
#include "ops/rows.h"

namespace qgemm {
namespace {

// x as rows of its last axis, an output of its shape beside it.
struct Rows {
  RowInput x;
  int64_t rows, n;
  void* out;
  OutputSpec spec;

  Rows(const py::array& a, py::array& result, double x_scale, int64_t x_zero_point, double out_scale, int64_t out_zero_point,
       std::optional<double> lo, std::optional<double> hi) {
    if (!is<uint8_t>(a) && !is<float>(a)) throw Error(Code::dtype, "x must be uint8 or float32, got " + dtype_of(a));
    if (a.ndim() < 1) throw Error(Code::shape, "x must have at least 1 dimension; the last one is reduced");
    need_contiguous(a, "x");
    need_same_shape(result, "out", a, "x");
    need_output(result, a, "x");
    if (is<uint8_t>(a)) check_encoding("x", x_scale, x_zero_point);
    spec = output_spec(result, out_scale, out_zero_point, lo, hi);
    if (spec.type == OutType::f32 && (lo || hi))
      throw Error(Code::dtype, "lo and hi apply to a uint8 or int8 out; clamp a float32 one by itself");
    n = a.shape(a.ndim() - 1);
    rows = n ? a.size() / n : 0;
    x = {a.data(), is<uint8_t>(a), {static_cast<float>(x_scale), static_cast<int32_t>(x_zero_point)}};
    out = result.mutable_data();
  }
};

// A mask of x's shape, whose strides may be 0; the leading axes of x are folded into three.
Mask mask_of(const py::array& mask, const py::array& x, const py::array& out) {
  need_dtype<float>(mask, "mask");
  need_same_shape(mask, "mask", x, "x");
  need_aligned(mask, "mask");
  need_apart(out, mask, "mask");
  const py::ssize_t last = x.ndim() - 1;
  if (x.shape(last) > 1 && mask.strides(last) != 4)
    throw Error(Code::layout, "mask: the last axis must be contiguous; pass numpy.ascontiguousarray of it");
  Mask m;
  m.data = static_cast<const float*>(mask.data());
  int64_t* sizes[3] = {&m.d2, &m.d1, &m.d0};
  int64_t* strides[3] = {&m.s2, &m.s1, &m.s0};
  int at = 0;
  for (py::ssize_t i = last - 1; i >= 0; --i) {
    const int64_t size = x.shape(i), stride = mask.strides(i) / 4;
    if (mask.strides(i) < 0) throw Error(Code::layout, "mask: axes must not run backwards; pass numpy.ascontiguousarray of it");
    if (size == 1) continue;
    if (*sizes[at] == 1) {
      *sizes[at] = size;
      *strides[at] = stride;
    } else if (stride == *strides[at] * *sizes[at]) {
      *sizes[at] *= size;  // evenly spaced with the axis behind it
    } else if (++at < 3) {
      *sizes[at] = size;
      *strides[at] = stride;
    } else {
      throw Error(Code::layout, "mask: its broadcasting pattern takes more than 3 axes; pass numpy.ascontiguousarray of it");
    }
  }
  return m;
}

}  // namespace

void bind_rows(py::module_& m) {
  using namespace py::literals;
  m.def(
      "softmax",
      [](const py::array& x, py::array& out, const std::optional<py::array>& mask, double x_scale, int64_t x_zero_point,
         double out_scale, int64_t out_zero_point, std::optional<double> lo, std::optional<double> hi) {
        const Rows r(x, out, x_scale, x_zero_point, out_scale, out_zero_point, lo, hi);
        const Mask added = mask ? mask_of(*mask, x, out) : Mask{};
        py::gil_scoped_release release;
        softmax(r.x, r.rows, r.n, added, r.out, r.spec);
      },
      "x"_a, "out"_a, "mask"_a = py::none(), "x_scale"_a = 1.0, "x_zero_point"_a = 0, "out_scale"_a = 1.0, "out_zero_point"_a = 0,
      "lo"_a = py::none(), "hi"_a = py::none());
  m.def(
      "norm",
      [](const py::array& x, py::array& out, const std::optional<py::array>& gamma, const std::optional<py::array>& beta,
         double epsilon, bool center, double x_scale, int64_t x_zero_point, double out_scale, int64_t out_zero_point,
         std::optional<double> lo, std::optional<double> hi) {
        const Rows r(x, out, x_scale, x_zero_point, out_scale, out_zero_point, lo, hi);
        const float *g = vector_or_null<float>(gamma, "gamma", r.n), *b = vector_or_null<float>(beta, "beta", r.n);
        if (gamma) need_apart(out, *gamma, "gamma");
        if (beta) need_apart(out, *beta, "beta");
        py::gil_scoped_release release;
        norm(r.x, r.rows, r.n, center, epsilon, g, b, r.out, r.spec);
      },
      "x"_a, "out"_a, "gamma"_a = py::none(), "beta"_a = py::none(), "epsilon"_a = 1e-5, "center"_a = true, "x_scale"_a = 1.0,
      "x_zero_point"_a = 0, "out_scale"_a = 1.0, "out_zero_point"_a = 0, "lo"_a = py::none(), "hi"_a = py::none());
}

}  // namespace qgemm
