// Operations that a program's builder takes: sums and products of two tensors, float expressions, rows taken by index, transposed
// and three-dimensional convolutions, resizing.
#include <array>
#include <functional>

#include "bound_expression.h"
#include "compiled.h"
#include "ops/conv3d.h"
#include "ops/conv_transpose.h"
#include "ops/eltwise.h"
#include "ops/images.h"
#include "ops/move.h"
#include "ops/product.h"

namespace qgemm {
namespace {

using Elementwise = std::function<void(const Operand8&, const Operand8&, uint8_t*, int64_t, int64_t, int64_t, const OutputSpec&)>;

// The operation between two encodings: a sum by tables where they exist and this path reads them; a product with factors where
// they do and `repeat` rows share one row of b.
Elementwise elementwise(bool product, int64_t repeat, const Encoding8& a, const Encoding8& b, const OutputSpec& out) {
  if (product)
    return [factors = repeat > 1 && reads_pairs() ? product_factors(a, b, out) : nullptr](
               const Operand8& x, const Operand8& y, uint8_t* to, int64_t ld, int64_t rows, int64_t n, const OutputSpec& o) {
      mul(x, y, to, ld, rows, n, o, factors.get());
    };
  return [tables = reads_pairs() ? sum_tables(a, b, out) : nullptr](const Operand8& x, const Operand8& y, uint8_t* to, int64_t ld,
                                                                    int64_t rows, int64_t n, const OutputSpec& o) {
    add(x, y, to, ld, rows, n, o, tables.get());
  };
}

// Rows of n bytes; ld: bytes from row to row of a, b and y. `repeat` consecutive rows share one row of b; 1: b is as large as a.
// The result may take over a's bytes, or b's (over_b), once nobody needs them.
void add_binary(Compiled& c, bool product, At x1, At x2, At y, int64_t rows, int64_t n, int64_t repeat,
                const std::array<int64_t, 3>& ld, double a_scale, int64_t a_zero_point, double b_scale, int64_t b_zero_point,
                double scale, int64_t zero_point, std::optional<double> lo, std::optional<double> hi, bool over_b) {
  check_encoding("a", a_scale, a_zero_point);
  check_encoding("b", b_scale, b_zero_point);
  const OutputSpec o = c.spec(false, scale, zero_point, lo, hi);
  const Encoding8 ea{static_cast<float>(a_scale), static_cast<int32_t>(a_zero_point)},
      eb{static_cast<float>(b_scale), static_cast<int32_t>(b_zero_point)};
  const Elementwise f = elementwise(product, repeat, ea, eb, o);
  const Place pa = place(x1), pb = place(x2), to = place(y);
  std::vector<int32_t> uses =
      over_b ? std::vector<int32_t>{pb.buffer, to.buffer, pa.buffer} : std::vector<int32_t>{pa.buffer, to.buffer, pb.buffer};
  const bool in_place = c.whole(over_b ? pb : pa, to, rows * n);
  c.program.add(
      product ? "mul" : "add", {0, 2 * rows * n + rows * n / repeat}, std::move(uses),
      [=](Addresses a) {
        f({reinterpret_cast<const uint8_t*>(at(a, pa)), ld[0], ea},
          {reinterpret_cast<const uint8_t*>(at(a, pb)), ld[1], eb, repeat}, reinterpret_cast<uint8_t*>(at(a, to)), ld[2], rows, n,
          o);
      },
      in_place);
}

using ExpressionInput = std::tuple<At, py::dtype, std::vector<int64_t>>;  // place, type, strides in elements

// y: C-contiguous of `shape`, over which the inputs are spread by strides of 0. The result may take over the bytes of the input
// `over` (-1: of none), which lies just like it.
void add_expression(Compiled& c, const BoundExpression& b, const std::vector<ExpressionInput>& inputs, At y,
                    const py::dtype& result, const std::vector<int64_t>& shape, int over) {
  if (inputs.size() != b.in.size() || b.out.size() != 1 || shape.size() > kMaxDims || over >= static_cast<int>(inputs.size()))
    throw Error(Code::shape, "expression: takes " + std::to_string(b.in.size()) + " inputs of at most 8 dimensions and has " +
                                 std::to_string(b.out.size()) + " outputs");
  std::vector<Place> places;
  std::vector<Source> sources;
  std::vector<int32_t> uses;
  const Place to = place(y);
  const Sink sink{nullptr, element_of(result, "out", true), b.out[0]};
  int64_t n = 1;
  for (const int64_t d : shape) n *= d;
  int64_t bytes = n * (element_bytes(sink.type) + 4 * static_cast<int64_t>(b.e.operations.size()));
  for (size_t i = 0; i < inputs.size(); ++i) {
    const auto& [from, dtype, strides] = inputs[i];
    Source s{nullptr, element_of(dtype, "input " + std::to_string(i), false), b.in[i], {}};
    if (strides.size() != shape.size()) throw Error(Code::shape, "expression: one stride a dimension");
    std::copy(strides.begin(), strides.end(), s.strides);
    places.push_back(place(from));
    sources.push_back(s);
    uses.push_back(from.first);
    bytes += n * element_bytes(s.type);
  }
  if (over >= 0 && !c.whole(places[static_cast<size_t>(over)], to, n * element_bytes(sink.type))) over = -1;
  if (over >= 0) std::swap(uses[0], uses[static_cast<size_t>(over)]);
  uses.insert(uses.begin() + (over >= 0 ? 1 : 0), to.buffer);
  c.program.add(
      "expression", {0, bytes}, std::move(uses),
      [e = b.e, places, sources, sink, to, shape](Addresses a) {
        static thread_local std::vector<Source> bound;
        bound = sources;
        for (size_t i = 0; i < bound.size(); ++i) bound[i].data = at(a, places[i]);
        Sink out = sink;
        out.data = at(a, to);
        evaluate(e, static_cast<int>(shape.size()), shape.data(), bound.data(), &out);
      },
      over >= 0);
}

// packed: of pack_floats, k x n.
void add_product(Compiled& c, At x, At y, const py::array& packed, const std::optional<py::array>& bias, int64_t rows, int64_t k,
                 int64_t n, bool floats, double scale, int64_t zero_point, std::optional<double> lo, std::optional<double> hi) {
  const FloatPanels b{vector_of<float>(packed, "packed", FloatPanels::floats(k, n)), k, n};
  const float* added = vector_or_null<float>(bias, "bias", n);
  const OutputSpec o = c.spec(floats, scale, zero_point, lo, hi);
  c.kept.push_back(packed);
  if (bias) c.kept.push_back(*bias);
  const Place from = place(x), to = place(y);
  const auto ldc = static_cast<ptrdiff_t>(n * static_cast<int64_t>(out_size(o.type)));
  c.program.add("product", {4 * rows * n * k, 4 * rows * k + rows * ldc + 4 * n * k}, {from.buffer, to.buffer},
                [=](Addresses a) { product(reinterpret_cast<const float*>(at(a, from)), rows, k, b, added, at(a, to), ldc, o); });
}

void add_matmul_floats(Compiled& c, int64_t batch, int64_t m, int64_t n, int64_t k, const Matrix& x1, const Matrix& x2,
                       const Matrix& y, bool floats, double scale, int64_t zero_point, std::optional<double> lo,
                       std::optional<double> hi) {
  const OutputSpec o = c.spec(floats, scale, zero_point, lo, hi);
  const Place pa = place(x1.at), pb = place(x2.at), to = place(y.at);
  const FloatMatrix ea{nullptr, x1.batches, x1.ld, x1.transposed}, eb{nullptr, x2.batches, x2.ld, x2.transposed};
  const auto element = static_cast<int64_t>(out_size(o.type));
  const Batches batches = y.bytes(element);
  const auto ldc = static_cast<ptrdiff_t>(y.ld * element);
  c.program.add("matmul floats", {4 * batch * m * n * k, batch * (4 * m * k + 4 * k * n + m * n * element)},
                {pa.buffer, pb.buffer, to.buffer}, [=](Addresses a) {
                  FloatMatrix left = ea, right = eb;
                  left.data = reinterpret_cast<const float*>(at(a, pa));
                  right.data = reinterpret_cast<const float*>(at(a, pb));
                  product_batch(batch, m, n, k, left, right, at(a, to), batches, ldc, o);
                });
}

// y[outer][count][bytes] = x[outer][index[count]][bytes]; wide: int64 indices, else int32. A negative one counts from the end.
void add_take(Compiled& c, At x, At index, bool wide, At y, int64_t outer, int64_t rows, int64_t count, int64_t bytes) {
  const Place from = place(x), which = place(index), to = place(y);
  c.program.add("take", {0, 2 * outer * count * bytes}, {from.buffer, which.buffer, to.buffer},
                [=](Addresses a) { take(at(a, from), outer, rows, bytes, at(a, which), wide, count, at(a, to)); });
}

// The channels of each pixel of bytes in another order: y[pixel][j] = x[pixel][index[j]].
void add_permute_channels(Compiled& c, At x, At y, const py::array& index, int64_t pixels) {
  const int64_t channels = index.size();
  const int32_t* order = vector_of<int32_t>(index, "index", channels);
  for (int64_t i = 0; i < channels; ++i)
    if (order[i] < 0 || order[i] >= channels)
      throw Error(Code::shape, "permute_channels: index " + std::to_string(order[i]) + " is not one of " +
                                   std::to_string(channels) + " channels");
  c.kept.push_back(index);
  const Place from = place(x), to = place(y);
  c.program.add("permute", {0, 2 * pixels * channels}, {from.buffer, to.buffer}, [=](Addresses a) {
    permute_channels(reinterpret_cast<const uint8_t*>(at(a, from)), pixels, channels, order,
                     reinterpret_cast<uint8_t*>(at(a, to)));
  });
}

void add_conv_transpose2d(Compiled& c, At x, At y, const py::array& packed, const std::array<int64_t, 4>& shape,
                          const std::array<int64_t, 4>& padding, const std::array<int64_t, 2>& extra, bool floats, double scale,
                          int64_t zero_point, std::optional<double> lo, std::optional<double> hi, int64_t out_stride) {
  const TransposedView w = transposed_view_of(packed);
  const OutputSpec o = c.spec(floats, scale, zero_point, lo, hi);
  TransposedWindow g;
  g.batch = shape[0];
  g.h = shape[1];
  g.w = shape[2];
  g.c = shape[3];
  g.top = padding[0];
  g.left = padding[1];
  g.bottom = padding[2];
  g.right = padding[3];
  g.extra_h = extra[0];
  g.extra_w = extra[1];
  check(w, g);
  c.kept.push_back(packed);
  const Place from = place(x), to = place(y);
  const int64_t in = g.batch * g.h * g.w, out = g.batch * g.out_h(w.dims) * g.out_w(w.dims) * w.dims.n;
  c.program.add("conv_transpose2d",
                {in * w.dims.cin_g * w.dims.n * w.dims.kh * w.dims.kw,
                 in * g.c + out * static_cast<int64_t>(out_size(o.type)) + w.total_bytes},
                {from.buffer, to.buffer}, [w, o, g, from, to, out_stride](Addresses a) {
                  conv_transpose2d(w, g, reinterpret_cast<const uint8_t*>(at(a, from)), at(a, to), o, nullptr, out_stride);
                });
}

using Triple = std::array<int64_t, 3>;

// padding: before the three axes, then behind them.
void add_conv3d(Compiled& c, At x, At y, const py::array& packed, const std::array<int64_t, 5>& shape, const Triple& kernel,
                const Triple& stride, const std::array<int64_t, 6>& padding, const Triple& dilation, bool floats, double scale,
                int64_t zero_point, std::optional<double> lo, std::optional<double> hi) {
  const PackedView w = view_of(packed);
  const OutputSpec o = c.spec(floats, scale, zero_point, lo, hi);
  Window3 g;
  g.batch = shape[0];
  g.c = shape[4];
  for (size_t i = 0; i < 3; ++i) {
    g.in[i] = shape[i + 1];
    g.kernel[i] = kernel[i];
    g.stride[i] = stride[i];
    g.dilation[i] = dilation[i];
    g.before[i] = padding[i];
    g.after[i] = padding[i + 3];
  }
  check(w, g);
  c.kept.push_back(packed);
  const Place from = place(x), to = place(y);
  const int64_t in = g.batch * g.in[0] * g.in[1] * g.in[2] * g.c, voxels = g.batch * g.out(0) * g.out(1) * g.out(2);
  c.program.add("conv3d", {voxels * w.n * w.k, in + voxels * w.n * static_cast<int64_t>(out_size(o.type)) + w.total_bytes},
                {from.buffer, to.buffer},
                [w, o, g, from, to](Addresses a) { conv3d(w, g, reinterpret_cast<const uint8_t*>(at(a, from)), at(a, to), o); });
}

// One axis: for each output position the inputs below and above, and the way between them.
struct Axis {
  std::vector<int32_t> lo, hi;
  std::vector<float> t;

  Axis(const py::array& below, const py::array& above, const py::array& between, int64_t inputs) {
    const int64_t n = below.size();
    const int32_t *l = vector_of<int32_t>(below, "lo", n), *h = vector_of<int32_t>(above, "hi", n);
    const float* f = vector_of<float>(between, "t", n);
    lo.assign(l, l + n);
    hi.assign(h, h + n);
    t.assign(f, f + n);
    for (int64_t i = 0; i < n; ++i)
      if (l[i] < 0 || l[i] >= inputs || h[i] < 0 || h[i] >= inputs || !(f[i] >= 0.0f && f[i] <= 1.0f))
        throw Error(Code::shape, "resize_linear: position " + std::to_string(i) + " does not lie in the image");
  }
  LinearAxis view() const { return {static_cast<int64_t>(lo.size()), lo.data(), hi.data(), t.data()}; }
};

void add_resize_linear(Compiled& c, At x, At y, const std::array<int64_t, 4>& shape, const py::array& y_lo, const py::array& y_hi,
                       const py::array& y_t, const py::array& x_lo, const py::array& x_hi, const py::array& x_t, double x_scale,
                       int64_t x_zero_point, double scale, int64_t zero_point, std::optional<double> lo,
                       std::optional<double> hi) {
  check_encoding("x", x_scale, x_zero_point);
  const OutputSpec o = c.spec(false, scale, zero_point, lo, hi);
  const ImageShape s{shape[0], shape[1], shape[2], shape[3]};
  const Encoding8 e{static_cast<float>(x_scale), static_cast<int32_t>(x_zero_point)};
  const Axis rows(y_lo, y_hi, y_t, s.h), columns(x_lo, x_hi, x_t, s.w);
  const Place from = place(x), to = place(y);
  const int64_t out = s.batch * rows.view().n * columns.view().n * s.c;
  c.program.add("resize_linear", {0, 5 * out}, {from.buffer, to.buffer}, [=](Addresses a) {
    resize_linear(reinterpret_cast<const uint8_t*>(at(a, from)), s, e, rows.view(), columns.view(),
                  reinterpret_cast<uint8_t*>(at(a, to)), o);
  });
}

}  // namespace

void bind_program_layers(CompiledClass& c) {
  using namespace py::literals;
  const auto binary = [&](const char* name, bool product) {
    c.def(
        name,
        [product](Compiled& self, At a, At b, At y, int64_t rows, int64_t n, int64_t repeat, const std::array<int64_t, 3>& ld,
                  double a_scale, int64_t a_zero_point, double b_scale, int64_t b_zero_point, double scale, int64_t zero_point,
                  std::optional<double> lo, std::optional<double> hi, bool over_b) {
          add_binary(self, product, a, b, y, rows, n, repeat, ld, a_scale, a_zero_point, b_scale, b_zero_point, scale, zero_point,
                     lo, hi, over_b);
        },
        "a"_a, "b"_a, "y"_a, "rows"_a, "n"_a, "repeat"_a, "ld"_a, "a_scale"_a, "a_zero_point"_a, "b_scale"_a, "b_zero_point"_a,
        "scale"_a, "zero_point"_a, "lo"_a, "hi"_a, "over_b"_a);
  };
  binary("add", false);
  binary("mul", true);
  c.def("expression", &add_expression, "expression"_a, "inputs"_a, "y"_a, "dtype"_a, "shape"_a, "over"_a)
      .def("product", &add_product, "x"_a, "y"_a, "packed"_a, "bias"_a, "rows"_a, "k"_a, "n"_a, "floats"_a, "scale"_a,
           "zero_point"_a, "lo"_a, "hi"_a)
      .def("matmul_floats", &add_matmul_floats, "batch"_a, "m"_a, "n"_a, "k"_a, "a"_a, "b"_a, "y"_a, "floats"_a, "scale"_a,
           "zero_point"_a, "lo"_a, "hi"_a)
      .def("take_rows", &add_take, "x"_a, "index"_a, "wide"_a, "y"_a, "outer"_a, "rows"_a, "count"_a, "bytes"_a);
  c.def("permute_channels", &add_permute_channels, "x"_a, "y"_a, "index"_a, "pixels"_a);
  c.def("conv_transpose2d", &add_conv_transpose2d, "x"_a, "y"_a, "packed"_a, "shape"_a, "padding"_a, "output_padding"_a,
        "floats"_a, "scale"_a, "zero_point"_a, "lo"_a, "hi"_a, "out_stride"_a = 0)
      .def("conv3d", &add_conv3d, "x"_a, "y"_a, "packed"_a, "shape"_a, "kernel"_a, "stride"_a, "padding"_a, "dilation"_a,
           "floats"_a, "scale"_a, "zero_point"_a, "lo"_a, "hi"_a)
      .def("resize_linear", &add_resize_linear, "x"_a, "y"_a, "shape"_a, "y_lo"_a, "y_hi"_a, "y_t"_a, "x_lo"_a, "x_hi"_a, "x_t"_a,
           "x_scale"_a, "x_zero_point"_a, "scale"_a, "zero_point"_a, "lo"_a, "hi"_a);
}

}  // namespace qgemm
