// Products of floats.
#include "bind.h"
#include "ops/product.h"

namespace qgemm {
namespace {

void need_floats(const py::array& a, const char* name) {
  need_dtype<float>(a, name);
  need_contiguous(a, name);
}

py::array_t<float> bind_pack(const py::array& b, bool transposed) {
  need_floats(b, "b");
  need_rank(b, "b", 2, transposed ? "[N, K]" : "[K, N]");
  const int64_t k = b.shape(transposed ? 1 : 0), n = b.shape(transposed ? 0 : 1);
  py::array_t<float> packed(FloatPanels::floats(k, n));
  const auto* from = static_cast<const float*>(b.data());
  float* to = packed.mutable_data();
  py::gil_scoped_release release;
  pack_floats(from, b.shape(1), transposed, k, n, to);
  return packed;
}

void bind_product_packed(const py::array& a, const py::array& packed, const std::optional<py::array>& bias, py::array& out,
                         double scale, int64_t zero_point, std::optional<double> lo, std::optional<double> hi) {
  need_floats(a, "a");
  need_rank(a, "a", 2, "[M, K]");
  need_rank(out, "out", 2, "[M, N]");
  need_output(out, a, "a");
  if (out.shape(0) != a.shape(0)) throw Error(Code::shape, "out has the shape " + shape_of(out) + ", a the shape " + shape_of(a));
  const int64_t m = a.shape(0), k = a.shape(1), n = out.shape(1);
  const FloatPanels b{vector_of<float>(packed, "packed", FloatPanels::floats(k, n)), k, n};
  const float* added = vector_or_null<float>(bias, "bias", n);
  const OutputSpec o = output_spec(out, scale, zero_point, lo, hi);
  const auto* from = static_cast<const float*>(a.data());
  void* to = out.mutable_data();
  const auto ldc = static_cast<ptrdiff_t>(n * out.itemsize());
  py::gil_scoped_release release;
  product(from, m, k, b, added, to, ldc, o);
}

void bind_matmul_floats(const py::array& a, const py::array& b, py::array& out, double scale, int64_t zero_point,
                        std::optional<double> lo, std::optional<double> hi, bool transposed) {
  need_floats(a, "a");
  need_floats(b, "b");
  need_output(out, a, "a");
  need_apart(out, b, "b");
  const py::ssize_t rank = a.ndim();
  bool fits = rank >= 2 && b.ndim() == rank && out.ndim() == rank;
  int64_t batch = 1;
  for (py::ssize_t i = 0; fits && i + 2 < rank; ++i) {
    fits = b.shape(i) == a.shape(i) && out.shape(i) == a.shape(i);
    batch *= a.shape(i);
  }
  const int64_t k = fits ? a.shape(rank - 1) : 0, n = fits ? b.shape(transposed ? rank - 2 : rank - 1) : 0,
                m = fits ? a.shape(rank - 2) : 0;
  if (!fits || b.shape(transposed ? rank - 1 : rank - 2) != k || out.shape(rank - 2) != m || out.shape(rank - 1) != n)
    throw Error(Code::shape, "matmul_floats: shapes " + shape_of(a) + " and " + shape_of(b) +
                                 (transposed ? " (transposed)" : "") + " do not give " + shape_of(out));
  const OutputSpec o = output_spec(out, scale, zero_point, lo, hi);
  const FloatMatrix left{static_cast<const float*>(a.data()), m * k, k, false},
      right{static_cast<const float*>(b.data()), k * n, transposed ? k : n, transposed};
  void* to = out.mutable_data();
  const auto ldc = static_cast<ptrdiff_t>(n * out.itemsize());
  py::gil_scoped_release release;
  product_batch(batch, m, n, k, left, right, to, m * ldc, ldc, o);
}

}  // namespace

void bind_product(py::module_& m) {
  using namespace py::literals;
  m.def("pack_floats", &bind_pack, "b"_a, "transposed"_a = false);
  m.def("product", &bind_product_packed, "a"_a, "packed"_a, "bias"_a, "out"_a, "out_scale"_a = 1.0, "out_zero_point"_a = 0,
        "lo"_a = py::none(), "hi"_a = py::none());
  m.def("matmul_floats", &bind_matmul_floats, "a"_a, "b"_a, "out"_a, "out_scale"_a = 1.0, "out_zero_point"_a = 0,
        "lo"_a = py::none(), "hi"_a = py::none(), "b_transposed"_a = false);
}

}  // namespace qgemm
