// Float convolution and pooling, for layers without an integer encoding: called alone, and as operations of a program.
#include <array>

#include "compiled.h"
#include "ops/conv_f32.h"
#include "ops/pool_f32.h"
#include "ops/product.h"

namespace qgemm {
namespace {

using Pair = std::array<int64_t, 2>;
using Four = std::array<int64_t, 4>;

// shape: of x, NHWC.
Window window(const char* op, const Four& shape, const Pair& kernel, const Pair& stride, const Four& padding,
              const Pair& dilation, int64_t x_stride = 0) {
  Window g = qgemm::window(shape, kernel, stride, padding, dilation);
  g.x_stride = x_stride / 4;
  g.check(op);
  return g;
}

// packed: what pack_floats gives for every group, [taps * channels, outputs] each, one after the other; depthwise, [taps *
// channels]. n: outputs.
FloatWeight weight(const Window& g, const py::array& packed, const std::optional<py::array>& bias, int64_t n, int64_t groups) {
  FloatWeight w;
  w.n = n;
  w.groups = groups;
  const bool even = groups > 0 && g.c % groups == 0 && n >= 0 && n % groups == 0;
  need_dtype<float>(packed, "packed");
  const int64_t taps = g.kh * g.kw;
  if (!even || packed.size() != (w.depthwise(g) ? taps * g.c : groups * FloatPanels::floats(taps * (g.c / groups), n / groups)))
    throw Error(Code::shape, "conv2d_f32: packed of shape " + shape_of(packed) + " is no weight of " + std::to_string(n) +
                                 " outputs from " + std::to_string(g.c) + " channels in " + std::to_string(groups) +
                                 " groups and a window of " + std::to_string(g.kh) + " x " + std::to_string(g.kw));
  w.panels = vector_of<float>(packed, "packed", packed.size());
  w.bias = vector_or_null<float>(bias, "bias", n);
  return w;
}

int64_t pixels_of(const Window& g) { return g.batch * g.out_h() * g.out_w(); }
int64_t stride_or(int64_t out_stride, int64_t n, const OutputSpec& o) {
  return out_stride ? out_stride : n * static_cast<int64_t>(out_size(o.type));
}

void add_conv2d_f32(Compiled& c, At x, At y, const py::array& packed, const std::optional<py::array>& bias, const Four& shape,
                    int64_t n, int64_t groups, const Pair& kernel, const Pair& stride, const Four& padding, const Pair& dilation,
                    bool floats, double scale, int64_t zero_point, std::optional<double> lo, std::optional<double> hi,
                    int64_t x_stride, int64_t out_stride) {
  const Window g = window("conv2d_f32", shape, kernel, stride, padding, dilation, x_stride);
  const FloatWeight w = weight(g, packed, bias, n, groups);
  const OutputSpec o = c.spec(floats, scale, zero_point, lo, hi);
  c.kept.push_back(packed);
  if (bias) c.kept.push_back(*bias);
  const Place from = place(x), to = place(y);
  const int64_t pixels = pixels_of(g), ldc = stride_or(out_stride, n, o);
  c.program.add("conv2d_f32",
                {4 * pixels * n * g.kh * g.kw * (g.c / groups), 4 * g.batch * g.h * g.w * g.c + pixels * n * 4 + packed.nbytes()},
                {from.buffer, to.buffer}, [=](Addresses a) {
                  conv2d_f32(w, g, reinterpret_cast<const float*>(at(a, from)), at(a, to), static_cast<ptrdiff_t>(ldc), o);
                });
}

// average: whether padding counts; none: the maximum.
void add_pool2d_f32(Compiled& c, At x, At y, const Four& shape, const Pair& kernel, const Pair& stride, const Four& padding,
                    const Pair& dilation, std::optional<bool> average, bool floats, double scale, int64_t zero_point,
                    std::optional<double> lo, std::optional<double> hi, int64_t x_stride, int64_t out_stride) {
  const char* name = average ? "avg_pool2d_f32" : "max_pool2d_f32";
  const Window g = window(name, shape, kernel, stride, padding, dilation, x_stride);
  const OutputSpec o = c.spec(floats, scale, zero_point, lo, hi);
  const Place from = place(x), to = place(y);
  const int64_t out = pixels_of(g) * g.c;
  const auto ldc = static_cast<ptrdiff_t>(stride_or(out_stride, g.c, o));
  c.program.add(name, {0, 4 * out * (g.kh * g.kw + 1)}, {from.buffer, to.buffer}, [=](Addresses a) {
    const auto* in = reinterpret_cast<const float*>(at(a, from));
    if (average)
      avg_pool2d_f32(g, in, *average, at(a, to), ldc, o);
    else
      max_pool2d_f32(g, in, at(a, to), ldc, o);
  });
}

Reduction reduction(int64_t kind) {
  if (kind < 0 || kind > static_cast<int64_t>(Reduction::max))
    throw Error(Code::shape, "reduce_f32: kind must be 0..3, got " + std::to_string(kind));
  return static_cast<Reduction>(kind);
}

void add_reduce_f32(Compiled& c, At x, At y, int64_t outer, int64_t n, int64_t inner, int64_t kind) {
  const Reduction what = reduction(kind);
  const Place from = place(x), to = place(y);
  c.program.add("reduce_f32", {0, 4 * outer * inner * (n + 1)}, {from.buffer, to.buffer}, [=](Addresses a) {
    reduce_f32(reinterpret_cast<const float*>(at(a, from)), outer, n, inner, what, reinterpret_cast<float*>(at(a, to)));
  });
}

Window window_of(const char* op, const py::array& x, const py::array& out, const Pair& kernel, const Pair& stride,
                 const Four& padding, const Pair& dilation) {
  need_dtype<float>(x, "x");
  need_rank(x, "x", 4, "[B, H, W, C] (NHWC)");
  need_contiguous(x, "x");
  const Window g = window(op, {x.shape(0), x.shape(1), x.shape(2), x.shape(3)}, kernel, stride, padding, dilation);
  if (out.ndim() != 4 || out.shape(0) != g.batch || out.shape(1) != g.out_h() || out.shape(2) != g.out_w())
    throw Error(Code::shape, std::string(op) + ": out has shape " + shape_of(out) + " for x of shape " + shape_of(x));
  need_output(out, x, "x");
  return g;
}

void pool(const py::array& x, py::array& out, const Pair& kernel, const Pair& stride, const Four& padding, const Pair& dilation,
          std::optional<bool> average, double scale, int64_t zero_point, std::optional<double> lo, std::optional<double> hi) {
  const char* name = average ? "avg_pool2d_f32" : "max_pool2d_f32";
  const Window g = window_of(name, x, out, kernel, stride, padding, dilation);
  if (out.shape(3) != g.c)
    throw Error(Code::shape, std::string(name) + ": out has shape " + shape_of(out) + " for x of shape " + shape_of(x));
  const OutputSpec o = output_spec(out, scale, zero_point, lo, hi);
  const auto* from = static_cast<const float*>(x.data());
  void* to = out.mutable_data();
  const auto ldc = static_cast<ptrdiff_t>(stride_or(0, g.c, o));
  py::gil_scoped_release release;
  if (average)
    avg_pool2d_f32(g, from, *average, to, ldc, o);
  else
    max_pool2d_f32(g, from, to, ldc, o);
}

}  // namespace

void bind_float(py::module_& m) {
  using namespace py::literals;
  m.def(
      "conv2d_f32",
      [](const py::array& x, const py::array& packed, const std::optional<py::array>& bias, py::array& out, const Pair& kernel,
         int64_t groups, const Pair& stride, const Four& padding, const Pair& dilation, double scale, int64_t zero_point,
         std::optional<double> lo, std::optional<double> hi) {
        const Window g = window_of("conv2d_f32", x, out, kernel, stride, padding, dilation);
        const FloatWeight w = weight(g, packed, bias, out.shape(3), groups);
        const OutputSpec o = output_spec(out, scale, zero_point, lo, hi);
        const auto* from = static_cast<const float*>(x.data());
        void* to = out.mutable_data();
        const auto ldc = static_cast<ptrdiff_t>(stride_or(0, w.n, o));
        py::gil_scoped_release release;
        conv2d_f32(w, g, from, to, ldc, o);
      },
      "x"_a, "packed"_a, "bias"_a, "out"_a, "kernel"_a, "groups"_a, "stride"_a, "padding"_a, "dilation"_a, "out_scale"_a = 1.0,
      "out_zero_point"_a = 0, "lo"_a = py::none(), "hi"_a = py::none());
  m.def(
      "max_pool2d_f32",
      [](const py::array& x, py::array& out, const Pair& kernel, const Pair& stride, const Four& padding, const Pair& dilation,
         double scale, int64_t zero_point, std::optional<double> lo,
         std::optional<double> hi) { pool(x, out, kernel, stride, padding, dilation, std::nullopt, scale, zero_point, lo, hi); },
      "x"_a, "out"_a, "kernel"_a, "stride"_a, "padding"_a, "dilation"_a = Pair{1, 1}, "out_scale"_a = 1.0, "out_zero_point"_a = 0,
      "lo"_a = py::none(), "hi"_a = py::none());
  m.def(
      "avg_pool2d_f32",
      [](const py::array& x, py::array& out, const Pair& kernel, const Pair& stride, const Four& padding, const Pair& dilation,
         bool count_include_pad, double scale, int64_t zero_point, std::optional<double> lo, std::optional<double> hi) {
        pool(x, out, kernel, stride, padding, dilation, count_include_pad, scale, zero_point, lo, hi);
      },
      "x"_a, "out"_a, "kernel"_a, "stride"_a, "padding"_a, "dilation"_a, "count_include_pad"_a, "out_scale"_a = 1.0,
      "out_zero_point"_a = 0, "lo"_a = py::none(), "hi"_a = py::none());
  m.def(
      "reduce_f32",
      [](const py::array& x, py::array& out, int64_t kind) {
        const Reduction what = reduction(kind);
        need_dtype<float>(x, "x");
        need_dtype<float>(out, "out");
        need_rank(x, "x", 3, "[outer, N, inner]");
        need_contiguous(x, "x");
        need_output(out, x, "x");
        if (x.shape(1) == 0) throw Error(Code::shape, "reduce_f32: x of shape " + shape_of(x) + " has nothing along N to reduce");
        if (out.ndim() != 2 || out.shape(0) != x.shape(0) || out.shape(1) != x.shape(2))
          throw Error(Code::shape, "reduce_f32: out has shape " + shape_of(out) + " for x of shape " + shape_of(x));
        const auto* from = static_cast<const float*>(x.data());
        auto* to = static_cast<float*>(out.mutable_data());
        const int64_t outer = x.shape(0), n = x.shape(1), inner = x.shape(2);
        py::gil_scoped_release release;
        reduce_f32(from, outer, n, inner, what, to);
      },
      "x"_a, "out"_a, "kind"_a);
}

void bind_program_float(CompiledClass& c) {
  using namespace py::literals;
  c.def("conv2d_f32", &add_conv2d_f32, "x"_a, "y"_a, "packed"_a, "bias"_a, "shape"_a, "n"_a, "groups"_a, "kernel"_a, "stride"_a,
        "padding"_a, "dilation"_a, "floats"_a, "scale"_a, "zero_point"_a, "lo"_a, "hi"_a, "x_stride"_a = 0, "out_stride"_a = 0)
      .def("pool2d_f32", &add_pool2d_f32, "x"_a, "y"_a, "shape"_a, "kernel"_a, "stride"_a, "padding"_a, "dilation"_a, "average"_a,
           "floats"_a, "scale"_a, "zero_point"_a, "lo"_a, "hi"_a, "x_stride"_a = 0, "out_stride"_a = 0)
      .def("reduce_f32", &add_reduce_f32, "x"_a, "y"_a, "outer"_a, "n"_a, "inner"_a, "kind"_a);
}

}  // namespace qgemm
