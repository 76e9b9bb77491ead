// Float convolution, for layers without an integer encoding: called alone, and as an operation of a program.
#include <array>
#include <limits>

#include "compiled.h"
#include "ops/conv_f32.h"

namespace qgemm {
namespace {

// The weight and window of arrays that Python packs. shape: of x, NHWC.
struct FloatConv {
  FloatWeight w;
  Window g;
  float lo, hi;

  FloatConv(const std::array<int64_t, 4>& shape, const py::array& panels, const py::array& bias,
            const std::array<int64_t, 2>& kernel, const std::array<int64_t, 2>& stride, const std::array<int64_t, 4>& padding,
            const std::array<int64_t, 2>& dilation, std::optional<double> least, std::optional<double> most)
      : lo(static_cast<float>(least.value_or(-std::numeric_limits<double>::infinity()))),
        hi(static_cast<float>(most.value_or(std::numeric_limits<double>::infinity()))) {
    need_dtype<float>(panels, "panels");
    need_rank(panels, "panels", 4, "[groups, panels, taps * channels, 32]");
    need_contiguous(panels, "panels");
    g.batch = shape[0];
    g.h = shape[1];
    g.w = shape[2];
    g.c = shape[3];
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
    g.check("conv2d_f32");
    w.n = bias.ndim() == 1 ? bias.shape(0) : 0;
    w.groups = panels.shape(0);
    const bool even = w.groups > 0 && g.c % w.groups == 0 && w.n % w.groups == 0;
    if (!even || panels.shape(3) != kSgemmPanel || panels.shape(2) != g.kh * g.kw * (g.c / w.groups) ||
        panels.shape(1) != (w.n / w.groups + kSgemmPanel - 1) / kSgemmPanel)
      throw Error(Code::shape, "conv2d_f32: panels of shape " + shape_of(panels) + " are not those of " + std::to_string(w.n) +
                                   " outputs from " + std::to_string(g.c) + " channels and a window of " + std::to_string(g.kh) +
                                   " x " + std::to_string(g.kw));
    w.panels = static_cast<const float*>(panels.data());
    w.bias = vector_of<float>(bias, "bias", w.n);
  }
};

void add_conv2d_f32(Compiled& c, At x, At y, const py::array& panels, const py::array& bias, const std::array<int64_t, 4>& shape,
                    const std::array<int64_t, 2>& kernel, const std::array<int64_t, 2>& stride,
                    const std::array<int64_t, 4>& padding, const std::array<int64_t, 2>& dilation, std::optional<double> lo,
                    std::optional<double> hi) {
  const FloatConv f(shape, panels, bias, kernel, stride, padding, dilation, lo, hi);
  c.kept.push_back(panels);
  c.kept.push_back(bias);
  const Place from = place(x), to = place(y);
  const int64_t pixels = f.g.batch * f.g.out_h() * f.g.out_w();
  c.program.add("conv2d_f32",
                {pixels * f.w.n * panels.shape(2), 4 * (f.g.batch * f.g.h * f.g.w * f.g.c + pixels * f.w.n) + panels.nbytes()},
                {from.buffer, to.buffer}, [f, from, to](Addresses a) {
                  conv2d_f32(f.w, f.g, reinterpret_cast<const float*>(at(a, from)), reinterpret_cast<float*>(at(a, to)), f.lo,
                             f.hi);
                });
}

}  // namespace

void bind_float(py::module_& m) {
  using namespace py::literals;
  m.def(
      "conv2d_f32",
      [](const py::array& x, const py::array& panels, const py::array& bias, py::array& out, const std::array<int64_t, 2>& kernel,
         const std::array<int64_t, 2>& stride, const std::array<int64_t, 4>& padding, const std::array<int64_t, 2>& dilation,
         std::optional<double> lo, std::optional<double> hi) {
        need_dtype<float>(x, "x");
        need_rank(x, "x", 4, "[B, H, W, C] (NHWC)");
        need_contiguous(x, "x");
        need_dtype<float>(out, "out");
        const FloatConv f({x.shape(0), x.shape(1), x.shape(2), x.shape(3)}, panels, bias, kernel, stride, padding, dilation, lo,
                          hi);
        if (out.ndim() != 4 || out.shape(0) != f.g.batch || out.shape(1) != f.g.out_h() || out.shape(2) != f.g.out_w() ||
            out.shape(3) != f.w.n)
          throw Error(Code::shape, "conv2d_f32: out has shape " + shape_of(out) + " for x of shape " + shape_of(x));
        need_output(out, x, "x");
        const auto* from = static_cast<const float*>(x.data());
        auto* to = static_cast<float*>(out.mutable_data());
        py::gil_scoped_release release;
        conv2d_f32(f.w, f.g, from, to, f.lo, f.hi);
      },
      "x"_a, "panels"_a, "bias"_a, "out"_a, "kernel"_a, "stride"_a, "padding"_a, "dilation"_a, "lo"_a = py::none(),
      "hi"_a = py::none());
}

void bind_program_float(CompiledClass& c) {
  using namespace py::literals;
  c.def("conv2d_f32", &add_conv2d_f32, "x"_a, "y"_a, "panels"_a, "bias"_a, "shape"_a, "kernel"_a, "stride"_a, "padding"_a,
        "dilation"_a, "lo"_a, "hi"_a);
}

}  // namespace qgemm
