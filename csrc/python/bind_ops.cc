// Quantization, convolution, elementwise operations and pooling.
#include <array>
#include <cmath>
#include <vector>

#include "bind.h"
#include "ops/conv.h"
#include "ops/eltwise.h"
#include "ops/layout.h"
#include "ops/pool.h"
#include "ops/quantize.h"

namespace qgemm {
namespace {

using Pair = std::array<int64_t, 2>;
using Padding = std::array<int64_t, 4>;

IntType int_type(const py::array& a, const char* name) {
  if (is<uint8_t>(a)) return {1, false};
  if (is<int8_t>(a)) return {1, true};
  if (is<uint16_t>(a)) return {2, false};
  if (is<int16_t>(a)) return {2, true};
  throw Error(Code::dtype, std::string(name) + " must be uint8, int8, uint16 or int16, got " + dtype_of(a));
}

// [outer][channels][inner] of x for encodings of `count` elements along `axis`.
ChannelShape channel_shape(const py::array& x, const char* name, const py::array& scale, const py::array& zero_point,
                           int64_t axis) {
  need_dtype<float>(scale, "scale");
  need_rank(scale, "scale", 1, "");
  need_contiguous(scale, "scale");
  const int64_t count = scale.shape(0);
  vector_of<int32_t>(zero_point, "zero_point", count);
  if (count == 1) return {1, 1, static_cast<int64_t>(x.size())};
  const int64_t rank = x.ndim(), at = axis < 0 ? axis + rank : axis;
  if (at < 0 || at >= rank)
    throw Error(Code::shape, "axis " + std::to_string(axis) + " does not exist in " + name + " of shape " + shape_of(x) +
                                 "; give the channel axis of the encodings");
  if (x.shape(at) != count)
    throw Error(Code::shape, "scale has " + std::to_string(count) + " elements but axis " + std::to_string(axis) + " of " + name +
                                 " (shape " + shape_of(x) + ") has " + std::to_string(x.shape(at)) +
                                 "; it needs one a channel, or 1");
  ChannelShape s{1, count, 1};
  for (int64_t i = 0; i < at; ++i) s.outer *= x.shape(i);
  for (int64_t i = at + 1; i < rank; ++i) s.inner *= x.shape(i);
  return s;
}

// Axes of a convolution's or a pool's image: [batch, height, width, channels].
Window window_of(const py::array& x, const Pair& stride, const Padding& padding, const Pair& dilation) {
  need_dtype<uint8_t>(x, "x");
  need_rank(x, "x", 4, "[B, H, W, C] (NHWC)");
  need_contiguous(x, "x");
  return window({x.shape(0), x.shape(1), x.shape(2), x.shape(3)}, {1, 1}, stride, padding, dilation);
}

void need_image(const py::array& out, const py::array& x, const Window& g, int64_t channels) {
  const std::array<int64_t, 4> want{g.batch, g.out_h(), g.out_w(), channels};
  bool same = out.ndim() == 4;
  for (int i = 0; same && i < 4; ++i) same = out.shape(i) == want[static_cast<size_t>(i)];
  if (!same)
    throw Error(Code::shape, "out must have shape (" + std::to_string(want[0]) + ", " + std::to_string(want[1]) + ", " +
                                 std::to_string(want[2]) + ", " + std::to_string(want[3]) + ") (NHWC) for x of shape " +
                                 shape_of(x) + ", got " + shape_of(out));
  need_output(out, x, "x");
}

void bind_quantize(py::module_& m) {
  using namespace py::literals;
  m.def(
      "quantize",
      [](const py::array& x, const py::array& scale, const py::array& zero_point, int64_t qmin, int64_t qmax, py::array& out,
         int64_t axis) {
        need_dtype<float>(x, "x");
        need_contiguous(x, "x");
        const IntType type = int_type(out, "out");
        need_same_shape(out, "out", x, "x");
        need_output(out, x, "x");
        const ChannelShape shape = channel_shape(x, "x", scale, zero_point, axis);
        const auto* in = static_cast<const float*>(x.data());
        const auto* s = static_cast<const float*>(scale.data());
        const auto* z = static_cast<const int32_t*>(zero_point.data());
        void* q = out.mutable_data();
        py::gil_scoped_release release;
        quantize(in, q, type, shape, s, z, qmin, qmax);
      },
      "x"_a, "scale"_a, "zero_point"_a, "qmin"_a, "qmax"_a, "out"_a, "axis"_a = -1);
  m.def(
      "dequantize",
      [](const py::array& q, const py::array& scale, const py::array& zero_point, py::array& out, int64_t axis) {
        const IntType type = int_type(q, "q");
        need_contiguous(q, "q");
        need_dtype<float>(out, "out");
        need_same_shape(out, "out", q, "q");
        need_output(out, q, "q");
        const ChannelShape shape = channel_shape(q, "q", scale, zero_point, axis);
        const void* in = q.data();
        const auto* s = static_cast<const float*>(scale.data());
        const auto* z = static_cast<const int32_t*>(zero_point.data());
        auto* x = static_cast<float*>(out.mutable_data());
        py::gil_scoped_release release;
        dequantize(in, x, type, shape, s, z);
      },
      "q"_a, "scale"_a, "zero_point"_a, "out"_a, "axis"_a = -1);
  m.def(
      "quantize_dynamic",
      [](const py::array& x, py::array& out, py::array& scale, py::array& zero_point, bool per_row, bool symmetric) {
        need_dtype<float>(x, "x");
        need_rank(x, "x", 2, "[M, K]");
        need_rows(x, "x");
        need_dtype<uint8_t>(out, "out");
        need_same_shape(out, "out", x, "x");
        need_output(out, x, "x");
        const int64_t rows = x.shape(0), count = per_row ? rows : 1;
        vector_of<float>(scale, "scale", count);
        vector_of<int32_t>(zero_point, "zero_point", count);
        need_writeable(scale, "scale");
        need_writeable(zero_point, "zero_point");
        need_apart(scale, x, "x");
        need_apart(zero_point, x, "x");
        const auto* in = static_cast<const float*>(x.data());
        const int64_t k = x.shape(1);
        const ptrdiff_t ldx = x.strides(0) / 4;
        auto* q = static_cast<uint8_t*>(out.mutable_data());
        auto* s = static_cast<float*>(scale.mutable_data());
        auto* z = static_cast<int32_t*>(zero_point.mutable_data());
        py::gil_scoped_release release;
        quantize_dynamic(in, rows, k, ldx, q, s, z, per_row, symmetric);
      },
      "x"_a, "out"_a, "scale"_a, "zero_point"_a, "per_row"_a, "symmetric"_a = false);
  m.def(
      "pack_int4",
      [](const py::array& values) {
        const bool is_signed = is<int8_t>(values);
        if (!is_signed && !is<uint8_t>(values))
          throw Error(Code::dtype, "values must be int8 in -8..7 or uint8 in 0..15, got " + dtype_of(values));
        if (values.ndim() < 1) throw Error(Code::shape, "values must have at least 1 dimension; the last one is packed");
        need_contiguous(values, "values");
        const auto* v = static_cast<const int8_t*>(values.data());
        for (int64_t i = 0; i < values.size(); ++i) {
          const int x = is_signed ? v[i] : static_cast<uint8_t>(v[i]);
          if (is_signed ? x < -8 || x > 7 : x > 15)
            throw Error(Code::quantization, std::string("4-bit values must lie in ") + (is_signed ? "-8..7" : "0..15") +
                                                ", got " + std::to_string(x) + " at element " + std::to_string(i));
        }
        std::vector<py::ssize_t> shape(values.shape(), values.shape() + values.ndim());
        const int64_t length = shape.back(), rows = length ? values.size() / length : 0;
        shape.back() = (length + 1) / 2;
        py::array_t<uint8_t> out(shape);
        pack_int4(v, rows, length, out.mutable_data());
        return out;
      },
      "values"_a);
  m.def(
      "unpack_int4",
      [](const py::array& packed, int64_t length, bool is_signed) -> py::array {
        need_dtype<uint8_t>(packed, "packed");
        if (packed.ndim() < 1) throw Error(Code::shape, "packed must have at least 1 dimension; the last one is unpacked");
        need_contiguous(packed, "packed");
        std::vector<py::ssize_t> shape(packed.shape(), packed.shape() + packed.ndim());
        if (length < 0 || shape.back() != (length + 1) / 2)
          throw Error(Code::shape, "length " + std::to_string(length) + " does not fit packed of shape " + shape_of(packed) +
                                       ": its last axis must be (length + 1) / 2");
        const int64_t rows = shape.back() ? packed.size() / shape.back() : 0;
        shape.back() = length;
        py::array out = is_signed ? py::array(py::array_t<int8_t>(shape)) : py::array(py::array_t<uint8_t>(shape));
        unpack_int4(static_cast<const uint8_t*>(packed.data()), rows, length, is_signed,
                    static_cast<int8_t*>(out.mutable_data()));
        return out;
      },
      "packed"_a, "length"_a, "signed"_a);
}

// Checks the operands of a sum or product. b has a's shape, or is [B, C] beside [B, ..., C]. Returns how many consecutive rows of
// a read one row of b.
int64_t need_operands(const py::array& a, const py::array& b, const py::array& out) {
  need_dtype<uint8_t>(a, "a");
  need_dtype<uint8_t>(b, "b");
  need_dtype<uint8_t>(out, "out");
  need_contiguous(a, "a");
  need_contiguous(b, "b");
  need_same_shape(out, "out", a, "a");
  need_output(out, a, "a");
  need_apart(out, b, "b");
  const py::ssize_t rank = a.ndim();
  if (b.ndim() == 2 && rank > 2 && b.shape(0) == a.shape(0) && b.shape(1) == a.shape(rank - 1)) {
    int64_t repeat = 1;
    for (py::ssize_t i = 1; i + 1 < rank; ++i) repeat *= a.shape(i);
    return repeat;
  }
  need_same_shape(b, "b", a, "a");
  return 1;
}

void bind_eltwise(py::module_& m) {
  using namespace py::literals;
  const auto binary = [&m](const char* name, auto f) {
    m.def(
        name,
        [f](const py::array& a, const py::array& b, py::array& out, double a_scale, int64_t a_zero_point, double b_scale,
            int64_t b_zero_point, double out_scale, int64_t out_zero_point, std::optional<double> lo, std::optional<double> hi) {
          const int64_t repeat = need_operands(a, b, out);
          check_encoding("a", a_scale, a_zero_point);
          check_encoding("b", b_scale, b_zero_point);
          const OutputSpec o = output_spec(out, out_scale, out_zero_point, lo, hi);
          const int64_t n = a.ndim() > 0 ? a.shape(a.ndim() - 1) : 1, rows = n > 0 ? a.size() / n : 0;
          const Operand8 x{
              static_cast<const uint8_t*>(a.data()), n, {static_cast<float>(a_scale), static_cast<int32_t>(a_zero_point)}};
          const Operand8 y{static_cast<const uint8_t*>(b.data()),
                           n,
                           {static_cast<float>(b_scale), static_cast<int32_t>(b_zero_point)},
                           repeat};
          auto* c = static_cast<uint8_t*>(out.mutable_data());
          py::gil_scoped_release release;
          f(x, y, c, n, rows, n, o);
        },
        "a"_a, "b"_a, "out"_a, "a_scale"_a, "a_zero_point"_a, "b_scale"_a, "b_zero_point"_a, "out_scale"_a, "out_zero_point"_a,
        "lo"_a = py::none(), "hi"_a = py::none());
  };
  using Binary = void (*)(const Operand8&, const Operand8&, uint8_t*, int64_t, int64_t, int64_t, const OutputSpec&);
  binary("add", static_cast<Binary>(&add));
  binary("mul", static_cast<Binary>(&mul));
  m.def(
      "lut",
      [](const py::array& x, const py::array& table, py::array& out) {
        need_dtype<uint8_t>(x, "x");
        need_dtype<uint8_t>(out, "out");
        need_contiguous(x, "x");
        const uint8_t* t = vector_of<uint8_t>(table, "table", 256);
        need_same_shape(out, "out", x, "x");
        need_output(out, x, "x");
        need_apart(out, table, "table");
        const auto* in = static_cast<const uint8_t*>(x.data());
        auto* y = static_cast<uint8_t*>(out.mutable_data());
        const int64_t n = x.size();
        py::gil_scoped_release release;
        lut(in, t, y, n);
      },
      "x"_a, "table"_a, "out"_a);
}

void bind_windows(py::module_& m) {
  using namespace py::literals;
  m.def(
      "conv2d",
      [](const py::array& x, const py::array& packed, py::array& out, const Pair& stride, const Padding& padding,
         const Pair& dilation, double out_scale, int64_t out_zero_point, std::optional<double> lo, std::optional<double> hi,
         std::optional<double> x_scale, std::optional<int64_t> x_zero_point) {
        const PackedView w = view_of(packed);
        if (w.kind == PackedKind::linear)
          throw Error(Code::packed, "conv2d: this weight was packed by pack_linear; use pack_conv2d");
        Window g = window_of(x, stride, padding, dilation);
        g.kh = w.kh;
        g.kw = w.kw;
        g.check("conv2d");
        need_image(out, x, g, w.n);
        need_apart(out, packed, "packed");
        const OutputSpec o = output_spec(out, out_scale, out_zero_point, lo, hi);
        Encoding8 encoding{w.x_scale, w.x_zero_point};
        const bool override_encoding = x_scale || x_zero_point;
        if (override_encoding) {
          check_encoding("x", x_scale.value_or(w.x_scale), x_zero_point.value_or(w.x_zero_point));
          if (x_scale) encoding.scale = static_cast<float>(*x_scale);
          if (x_zero_point) encoding.zero_point = static_cast<int32_t>(*x_zero_point);
        }
        const auto* in = static_cast<const uint8_t*>(x.data());
        void* c = out.mutable_data();
        py::gil_scoped_release release;
        conv2d(w, g, in, c, o, override_encoding ? &encoding : nullptr);
      },
      "x"_a, "packed"_a, "out"_a, "stride"_a, "padding"_a, "dilation"_a, "out_scale"_a = 1.0, "out_zero_point"_a = 0,
      "lo"_a = py::none(), "hi"_a = py::none(), "x_scale"_a = py::none(), "x_zero_point"_a = py::none());
  m.def(
      "max_pool2d",
      [](const py::array& x, py::array& out, const Pair& kernel, const Pair& stride, const Padding& padding,
         const Pair& dilation) {
        Window g = window_of(x, stride, padding, dilation);
        need_dtype<uint8_t>(out, "out");
        g.kh = kernel[0];
        g.kw = kernel[1];
        g.check("max_pool2d");
        need_image(out, x, g, g.c);
        const auto* in = static_cast<const uint8_t*>(x.data());
        auto* y = static_cast<uint8_t*>(out.mutable_data());
        py::gil_scoped_release release;
        max_pool2d(g, in, y);
      },
      "x"_a, "out"_a, "kernel"_a, "stride"_a, "padding"_a, "dilation"_a = Pair{1, 1});
  m.def(
      "avg_pool2d",
      [](const py::array& x, py::array& out, const Pair& kernel, const Pair& stride, const Padding& padding,
         bool count_include_pad, double x_scale, int64_t x_zero_point, double out_scale, int64_t out_zero_point,
         std::optional<double> lo, std::optional<double> hi) {
        Window g = window_of(x, stride, padding, {1, 1});
        g.kh = kernel[0];
        g.kw = kernel[1];
        g.check("avg_pool2d");
        if (is<int32_t>(out)) throw Error(Code::dtype, "avg_pool2d: out must be uint8, int8 or float32, got int32");
        check_encoding("x", x_scale, x_zero_point);
        const OutputSpec o = output_spec(out, out_scale, out_zero_point, lo, hi);
        need_image(out, x, g, g.c);
        const Encoding8 ex{static_cast<float>(x_scale), static_cast<int32_t>(x_zero_point)};
        const auto* in = static_cast<const uint8_t*>(x.data());
        void* y = out.mutable_data();
        py::gil_scoped_release release;
        avg_pool2d(g, in, ex, count_include_pad, y, o);
      },
      "x"_a, "out"_a, "kernel"_a, "stride"_a, "padding"_a, "count_include_pad"_a, "x_scale"_a, "x_zero_point"_a,
      "out_scale"_a = 1.0, "out_zero_point"_a = 0, "lo"_a = py::none(), "hi"_a = py::none());
}

void bind_transpose(const py::array& x, py::array& out) {
  need_rank(x, "x", 3, "[B, R, C]");
  need_rank(out, "out", 3, "[B, C, R]");
  if (!is<uint8_t>(x) && !is<int8_t>(x) && !is<float>(x) && !is<int32_t>(x))
    throw Error(Code::dtype, "x must be uint8, int8, int32 or float32, got " + dtype_of(x));
  if (!out.dtype().equal(x.dtype()))
    throw Error(Code::dtype, "out must have the type of x, " + dtype_of(x) + ", got " + dtype_of(out));
  if (out.shape(0) != x.shape(0) || out.shape(1) != x.shape(2) || out.shape(2) != x.shape(1))
    throw Error(Code::shape, "out must have shape (" + std::to_string(x.shape(0)) + ", " + std::to_string(x.shape(2)) + ", " +
                                 std::to_string(x.shape(1)) + "), got " + shape_of(out));
  need_contiguous(x, "x");
  need_output(out, x, "x");
  const void* from = x.data();
  void* to = out.mutable_data();
  const size_t size = static_cast<size_t>(x.itemsize());
  py::gil_scoped_release release;
  transpose(from, x.shape(0), x.shape(1), x.shape(2), size, to);
}

}  // namespace

void bind_ops(py::module_& m) {
  bind_quantize(m);
  bind_eltwise(m);
  bind_windows(m);
  using namespace py::literals;
  m.def("transpose", &bind_transpose, "x"_a, "out"_a);
}

}  // namespace qgemm
