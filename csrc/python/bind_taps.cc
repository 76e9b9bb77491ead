// Transposed and three-dimensional convolution.
#include <array>

#include "bind.h"
#include "ops/conv3d.h"
#include "ops/conv_transpose.h"

namespace qgemm {
namespace {

using Pair = std::array<int64_t, 2>;
using Triple = std::array<int64_t, 3>;

// The encoding that a call gives for its input, when it gives one.
std::optional<Encoding8> given_encoding(std::optional<double> scale, std::optional<int64_t> zero_point, float packed_scale,
                                        int32_t packed_zero_point) {
  if (!scale && !zero_point) return std::nullopt;
  Encoding8 e{packed_scale, packed_zero_point};
  check_encoding("x", scale.value_or(packed_scale), zero_point.value_or(packed_zero_point));
  if (scale) e.scale = static_cast<float>(*scale);
  if (zero_point) e.zero_point = static_cast<int32_t>(*zero_point);
  return e;
}

void need_shape(const py::array& out, const std::vector<int64_t>& want, const char* order, const py::array& x) {
  bool same = out.ndim() == static_cast<py::ssize_t>(want.size());
  std::string text;
  for (size_t i = 0; i < want.size(); ++i) {
    same = same && out.shape(static_cast<py::ssize_t>(i)) == want[i];
    text += (i ? ", " : "") + std::to_string(want[i]);
  }
  if (!same)
    throw Error(Code::shape,
                "out must have shape (" + text + ") (" + order + ") for x of shape " + shape_of(x) + ", got " + shape_of(out));
  need_output(out, x, "x");
}

py::array_t<uint8_t> pack_transposed(const py::array& weight, const py::array& scale, std::optional<py::array> zero_point,
                                     std::optional<py::array> bias, std::optional<py::array> bias_int32, int64_t groups,
                                     const Pair& stride, const Pair& dilation, int bits, double x_scale, int64_t x_zero_point,
                                     const std::string& name) {
  need_dtype<int8_t>(weight, "weight");
  need_rank(weight, "weight", 4, "[Cin, Cout/groups, KH, KW]");
  need_contiguous(weight, "weight");
  TransposedSpec s;
  s.common.name = name;
  if (groups < 1 || weight.shape(0) % groups != 0)
    throw Error(Code::shape, (name.empty() ? "" : "layer '" + name + "': ") + "groups must be at least 1 and divide the " +
                                 std::to_string(weight.shape(0)) + " input channels, got " + std::to_string(groups));
  s.dims = {weight.shape(1) * groups,
            groups,
            weight.shape(0) / groups,
            weight.shape(2),
            weight.shape(3),
            stride[0],
            stride[1],
            dilation[0],
            dilation[1]};
  s.weight = static_cast<const int8_t*>(weight.data());
  s.common.n = s.dims.n;
  pack_arguments(s.common, scale, zero_point, bias, bias_int32, bits, x_scale, x_zero_point, name);
  py::array_t<uint8_t> out = aligned_bytes(packed_bytes(s));
  uint8_t* dst = out.mutable_data();
  py::gil_scoped_release release;
  pack(s, dst);
  return out;
}

void bind_transposed(const py::array& x, const py::array& packed, py::array& out, const Pair& stride,
                     const std::array<int64_t, 4>& padding, const Pair& output_padding, const Pair& dilation, double out_scale,
                     int64_t out_zero_point, std::optional<double> lo, std::optional<double> hi, std::optional<double> x_scale,
                     std::optional<int64_t> x_zero_point) {
  const TransposedView w = transposed_view_of(packed);
  need_dtype<uint8_t>(x, "x");
  need_rank(x, "x", 4, "[B, H, W, C] (NHWC)");
  need_contiguous(x, "x");
  const TransposedDims& d = w.dims;
  if (stride != Pair{d.stride_h, d.stride_w} || dilation != Pair{d.dilation_h, d.dilation_w})
    throw Error(Code::packed, "conv_transpose2d: stride (" + std::to_string(stride[0]) + ", " + std::to_string(stride[1]) +
                                  ") and dilation (" + std::to_string(dilation[0]) + ", " + std::to_string(dilation[1]) +
                                  ") are not those the weight was packed for, (" + std::to_string(d.stride_h) + ", " +
                                  std::to_string(d.stride_w) + ") and (" + std::to_string(d.dilation_h) + ", " +
                                  std::to_string(d.dilation_w) + "); pack it for them");
  TransposedWindow g;
  g.batch = x.shape(0);
  g.h = x.shape(1);
  g.w = x.shape(2);
  g.c = x.shape(3);
  g.top = padding[0];
  g.left = padding[1];
  g.bottom = padding[2];
  g.right = padding[3];
  g.extra_h = output_padding[0];
  g.extra_w = output_padding[1];
  check(w, g);
  need_shape(out, {g.batch, g.out_h(w.dims), g.out_w(w.dims), w.dims.n}, "NHWC", x);
  need_apart(out, packed, "packed");
  const OutputSpec o = output_spec(out, out_scale, out_zero_point, lo, hi);
  const auto encoding = given_encoding(x_scale, x_zero_point, w.x_scale, w.x_zero_point);
  const auto* in = static_cast<const uint8_t*>(x.data());
  void* c = out.mutable_data();
  py::gil_scoped_release release;
  conv_transpose2d(w, g, in, c, o, encoding ? &*encoding : nullptr);
}

py::array_t<uint8_t> bind_pack3d(const py::array& weight, const py::array& scale, std::optional<py::array> zero_point,
                                 std::optional<py::array> bias, std::optional<py::array> bias_int32, int64_t groups, int bits,
                                 double x_scale, int64_t x_zero_point, const std::string& name) {
  need_dtype<int8_t>(weight, "weight");
  need_rank(weight, "weight", 5, "[Cout, Cin/groups, KD, KH, KW]");
  need_contiguous(weight, "weight");
  PackSpec s;
  s.n = weight.shape(0);
  s.groups = groups;
  s.cin_g = weight.shape(1);
  s.kh = weight.shape(2) * weight.shape(3);
  s.kw = weight.shape(4);
  s.kind = s.cin_g == 1 && s.n == groups && groups > 1 && !zero_point ? PackedKind::depthwise : PackedKind::conv;
  s.weight = static_cast<const int8_t*>(weight.data());
  pack_arguments(s, scale, zero_point, bias, bias_int32, bits, x_scale, x_zero_point, name);
  py::array_t<uint8_t> out = aligned_bytes(packed_bytes(s));
  uint8_t* dst = out.mutable_data();
  py::gil_scoped_release release;
  pack(s, dst);
  return out;
}

void bind_conv3d(const py::array& x, const py::array& packed, py::array& out, const Triple& kernel, const Triple& stride,
                 const std::array<int64_t, 6>& padding, const Triple& dilation, double out_scale, int64_t out_zero_point,
                 std::optional<double> lo, std::optional<double> hi, std::optional<double> x_scale,
                 std::optional<int64_t> x_zero_point) {
  const PackedView w = view_of(packed);
  need_dtype<uint8_t>(x, "x");
  need_rank(x, "x", 5, "[B, D, H, W, C] (NDHWC)");
  need_contiguous(x, "x");
  Window3 g;
  g.batch = x.shape(0);
  g.c = x.shape(4);
  for (int i = 0; i < 3; ++i) {
    const size_t at = static_cast<size_t>(i);
    g.in[i] = x.shape(i + 1);
    g.kernel[i] = kernel[at];
    g.stride[i] = stride[at];
    g.dilation[i] = dilation[at];
    g.before[i] = padding[at];
    g.after[i] = padding[at + 3];
  }
  check(w, g);
  need_shape(out, {g.batch, g.out(0), g.out(1), g.out(2), w.n}, "NDHWC", x);
  need_apart(out, packed, "packed");
  const OutputSpec o = output_spec(out, out_scale, out_zero_point, lo, hi);
  const auto encoding = given_encoding(x_scale, x_zero_point, w.x_scale, w.x_zero_point);
  const auto* in = static_cast<const uint8_t*>(x.data());
  void* c = out.mutable_data();
  py::gil_scoped_release release;
  conv3d(w, g, in, c, o, encoding ? &*encoding : nullptr);
}

}  // namespace

TransposedView transposed_view_of(const py::array& packed) {
  need_dtype<uint8_t>(packed, "packed");
  need_rank(packed, "packed", 1, "");
  need_contiguous(packed, "packed");
  if (reinterpret_cast<uintptr_t>(packed.data()) % 8 != 0)
    throw Error(Code::packed, "the packed weight must be 8-byte aligned; copy it into a fresh array");
  return view_transposed(static_cast<const uint8_t*>(packed.data()), packed.shape(0));
}

void bind_taps(py::module_& m) {
  using namespace py::literals;
  m.def("pack_conv_transpose2d", &pack_transposed, "weight"_a, "scale"_a, "zero_point"_a = py::none(), "bias"_a = py::none(),
        "bias_int32"_a = py::none(), "groups"_a = 1, "stride"_a = Pair{1, 1}, "dilation"_a = Pair{1, 1}, "bits"_a = 8,
        "x_scale"_a = 1.0, "x_zero_point"_a = 0, "name"_a = "");
  m.def("conv_transpose2d", &bind_transposed, "x"_a, "packed"_a, "out"_a, "stride"_a, "padding"_a, "output_padding"_a,
        "dilation"_a, "out_scale"_a = 1.0, "out_zero_point"_a = 0, "lo"_a = py::none(), "hi"_a = py::none(),
        "x_scale"_a = py::none(), "x_zero_point"_a = py::none());
  m.def("pack_conv3d", &bind_pack3d, "weight"_a, "scale"_a, "zero_point"_a = py::none(), "bias"_a = py::none(),
        "bias_int32"_a = py::none(), "groups"_a = 1, "bits"_a = 8, "x_scale"_a = 1.0, "x_zero_point"_a = 0, "name"_a = "");
  m.def("conv3d", &bind_conv3d, "x"_a, "packed"_a, "out"_a, "kernel"_a, "stride"_a, "padding"_a, "dilation"_a,
        "out_scale"_a = 1.0, "out_zero_point"_a = 0, "lo"_a = py::none(), "hi"_a = py::none(), "x_scale"_a = py::none(),
        "x_zero_point"_a = py::none());
}

}  // namespace qgemm
