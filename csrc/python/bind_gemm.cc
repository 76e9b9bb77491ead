// Weights and linear layers.
#include <cmath>
#include <limits>

#include "bind.h"
#include "cpu/dispatch.h"
#include "ops/matmul.h"
#include "ops/threads.h"
#include "pack/transposed.h"
#include "pack/weights.h"

namespace qgemm {

OutputSpec output_spec(const py::array& out, double scale, int64_t zero_point, std::optional<double> lo,
                       std::optional<double> hi) {
  OutType type = OutType::u8;
  if (is<float>(out))
    type = OutType::f32;
  else if (is<int32_t>(out))
    type = OutType::s32;
  else if (is<int8_t>(out))
    type = OutType::s8;
  else if (!is<uint8_t>(out))
    throw Error(Code::dtype, "out must be uint8, int8, int32 or float32, got " + dtype_of(out));
  return output_spec(type, scale, zero_point, lo, hi);
}

OutputSpec output_spec(OutType type, double scale, int64_t zero_point, std::optional<double> lo, std::optional<double> hi) {
  OutputSpec o;
  o.type = type;
  o.f_lo = -std::numeric_limits<float>::infinity();
  o.f_hi = std::numeric_limits<float>::infinity();
  if (type == OutType::f32 || type == OutType::s32) {
    if (o.type == OutType::f32) {
      if ((lo && std::isnan(*lo)) || (hi && std::isnan(*hi))) throw Error(Code::quantization, "lo and hi must not be NaN");
      if (lo) o.f_lo = static_cast<float>(*lo);
      if (hi) o.f_hi = static_cast<float>(*hi);
      if (o.f_lo > o.f_hi) throw Error(Code::quantization, "lo must not exceed hi");
    } else if (lo || hi) {
      throw Error(Code::dtype, "lo and hi do not apply to an int32 output; leave them out, or ask for float32, uint8 or int8");
    }
    return o;
  }
  const bool is_signed = type == OutType::s8;
  const int qmin = is_signed ? -128 : 0, qmax = qmin + 255;
  o.scale = static_cast<float>(scale);
  if (!(std::isfinite(o.scale) && o.scale > 0))
    throw Error(Code::quantization, "out_scale must be finite and > 0 in float32, got " + std::to_string(scale) +
                                        "; recalibrate the output's quantizer");
  if (!std::isfinite(1.0f / o.scale))
    throw Error(Code::quantization, "out_scale is so small that its reciprocal is infinite; recalibrate the output's quantizer");
  if (zero_point < qmin || zero_point > qmax)
    throw Error(Code::quantization, "out_zero_point must lie in " + std::to_string(qmin) + ".." + std::to_string(qmax) +
                                        ", got " + std::to_string(zero_point));
  auto bound = [&](std::optional<double> v, int otherwise, const char* name) {
    if (!v) return otherwise;
    if (!(*v >= qmin && *v <= qmax) || *v != std::floor(*v))
      throw Error(Code::quantization, std::string(name) + " must be an integer in " + std::to_string(qmin) + ".." +
                                          std::to_string(qmax) + " for this output, got " + std::to_string(*v));
    return static_cast<int>(*v);
  };
  o.lo = bound(lo, qmin, "lo") - qmin;
  o.hi = bound(hi, qmax, "hi") - qmin;
  if (o.lo > o.hi) throw Error(Code::quantization, "lo must not exceed hi");
  o.zero_point = static_cast<int32_t>(zero_point) - qmin;
  return o;
}

void need_k(const PackedView& w, int64_t k, const std::string& shape) {
  if (w.kind != PackedKind::linear) throw Error(Code::packed, "this weight was packed for a convolution; use pack_linear");
  if (k != w.k)
    throw Error(Code::shape, "x has K = " + std::to_string(k) + shape + " but the weight has K = " + std::to_string(w.k));
}

void need_linear(const PackedView& w, int64_t k, int64_t n) {
  need_k(w, k, "");
  if (w.n != n)
    throw Error(Code::shape, "out_features is " + std::to_string(n) + " but the weight has N = " + std::to_string(w.n));
}

void need_dynamic(const PackedView& w) {
  if (!w.dynamic)
    throw Error(Code::packed,
                "this weight was packed for a static input encoding; pack it with the default x_scale and x_zero_point");
}

const uint8_t* unsigned_rows(const uint8_t* x, int64_t rows, int64_t k, ptrdiff_t ldx) {
  static thread_local Scratch<uint8_t> shifted;
  uint8_t* u = shifted.get(rows * k);
  const KernelTable& t = table();
  parallel_shares(rows, threads_for(rows * k, kGrainBytes), [=, &t](int64_t begin, int64_t end) {
    t.flip({x + begin * ldx, u + begin * k, end - begin, k, ldx});
  });
  return u;
}

py::array_t<uint8_t> aligned_bytes(int64_t count) {
  // numpy aligns to 16 bytes; kernels read whole cache lines, so the panel's start is moved to one.
  py::array_t<uint8_t> raw(count + 64);
  const auto p = reinterpret_cast<uintptr_t>(raw.data());
  const py::ssize_t skip = static_cast<py::ssize_t>((64 - p % 64) % 64);
  return raw[py::slice(skip, skip + count, 1)].cast<py::array_t<uint8_t>>();
}

void pack_arguments(PackSpec& s, const py::array& scale, const std::optional<py::array>& zero_point,
                    const std::optional<py::array>& bias, const std::optional<py::array>& bias_int32, int bits, double x_scale,
                    int64_t x_zero_point, const std::string& name) {
  need_dtype<float>(scale, "scale");
  need_contiguous(scale, "scale");
  s.scale = static_cast<const float*>(scale.data());
  s.scale_count = scale.size();
  s.zero_point = vector_or_null<int32_t>(zero_point, "zero_point", s.n);
  s.bias = vector_or_null<float>(bias, "bias", s.n);
  s.bias_int32 = vector_or_null<int32_t>(bias_int32, "bias_int32", s.n);
  s.bits = bits;
  s.x_scale = static_cast<float>(x_scale);
  if (x_zero_point < 0 || x_zero_point > 255)
    throw Error(Code::quantization, (name.empty() ? "" : "layer '" + name + "': ") + "input zero_point must lie in 0..255, got " +
                                        std::to_string(x_zero_point));
  s.x_zero_point = static_cast<int32_t>(x_zero_point);
  // A weight with encoding (1.0, 0), the defaults, serves dynamic inputs of any zero point; a real input's zero point is proven
  // alone.
  s.dynamic = x_scale == 1.0 && x_zero_point == 0;
  s.name = name;
}

namespace {

py::array_t<uint8_t> pack_spec(const PackSpec& s) {
  py::array_t<uint8_t> out = aligned_bytes(packed_bytes(s));
  uint8_t* dst = out.mutable_data();
  py::gil_scoped_release release;
  pack(s, dst);
  return out;
}

// The kernel that computes with a weight on the active path.
std::string kernel_of(const PackedView& v) {
  std::string kernel;
  if (v.kind == PackedKind::depthwise) {
    for (const auto& r : kernel_rows())
      if (std::string(r.op) == "depthwise" && reinterpret_cast<void (*)()>(table().depthwise) == r.fn) kernel = r.name;
  } else if (v.panels_per_group > 0) {
    kernel = table().gemm_for(v.panel_width(0)).name;
  }
  return kernel;
}

std::optional<TransposedView> transposed_or_none(const py::array& packed) {
  if (!is<uint8_t>(packed) || packed.ndim() != 1 || !(packed.flags() & py::array::c_style)) return std::nullopt;
  const auto* data = static_cast<const uint8_t*>(packed.data());
  if (!is_transposed(data, packed.shape(0))) return std::nullopt;
  return view_transposed(data, packed.shape(0));
}

py::dict transposed_info(const TransposedView& v) {
  py::dict d;
  d["kind"] = "conv_transpose2d";
  d["n"] = v.dims.n;
  d["groups"] = v.dims.groups;
  d["cin_per_group"] = v.dims.cin_g;
  d["k"] = v.dims.cin_g * v.dims.kh * v.dims.kw;
  d["kernel_size"] = py::make_tuple(v.dims.kh, v.dims.kw);
  d["stride"] = py::make_tuple(v.dims.stride_h, v.dims.stride_w);
  d["dilation"] = py::make_tuple(v.dims.dilation_h, v.dims.dilation_w);
  d["taps"] = v.dims.kh * v.dims.kw;
  d["bits"] = v.bits;
  d["group_size"] = 0;
  d["x_scale"] = v.x_scale;
  d["x_zero_point"] = v.x_zero_point;
  d["bytes"] = v.total_bytes;
  std::string kernel;
  each_remainder(v, [&](int64_t, int64_t, const PackedView& w) { kernel = kernel_of(w); });
  d["kernel"] = kernel;
  return d;
}

py::dict info(const py::array& packed) {
  if (const auto transposed = transposed_or_none(packed)) return transposed_info(*transposed);
  const PackedView v = view_of(packed);
  py::dict d;
  const char* kinds[] = {"linear", "conv2d", "depthwise"};
  d["kind"] = kinds[static_cast<int>(v.kind)];
  d["n"] = v.n;
  d["k"] = v.k;
  d["groups"] = v.groups;
  d["cin_per_group"] = v.kind == PackedKind::linear ? v.k : v.cin_g;
  d["kernel_size"] = py::make_tuple(v.kind == PackedKind::linear ? 1 : v.kh, v.kind == PackedKind::linear ? 1 : v.kw);
  d["taps"] = v.taps;
  d["bits"] = v.bits;
  d["group_size"] = v.group_size;
  d["x_scale"] = v.x_scale;
  d["x_zero_point"] = v.x_zero_point;
  d["bytes"] = v.total_bytes;
  d["kernel"] = kernel_of(v);
  return d;
}

py::array_t<int8_t> unpack_weight(const py::array& packed) {
  if (const auto v = transposed_or_none(packed)) {
    const TransposedDims& d = v->dims;
    py::array_t<int8_t> out(std::vector<py::ssize_t>{d.groups * d.cin_g, d.n / d.groups, d.kh, d.kw});
    unpack(*v, out.mutable_data());
    return out;
  }
  const PackedView v = view_of(packed);
  std::vector<py::ssize_t> shape{v.n, v.k};
  if (v.kind != PackedKind::linear) shape = {v.n, v.cin_g, v.kh, v.kw};
  py::array_t<int8_t> out(shape);
  unpack(v, out.mutable_data());
  return out;
}

void need_matrices(const py::array& x, const py::array& out, const PackedView& w) {
  need_rank(x, "x", 2, "[M, K]");
  need_rank(out, "out", 2, "[M, N]");
  need_k(w, x.shape(1), " (shape " + shape_of(x) + ")");
  if (out.shape(0) != x.shape(0) || out.shape(1) != w.n)
    throw Error(Code::shape,
                "out must have shape (" + std::to_string(x.shape(0)) + ", " + std::to_string(w.n) + "), got " + shape_of(out));
  need_rows(x, "x");
  need_rows(out, "out");
  need_writeable(out, "out");
  need_apart(out, x, "x");
}

// The grid of a uint16 or int16 tensor.
struct Grid16 {
  int32_t least;
  std::string range() const { return std::to_string(least) + ".." + std::to_string(least + 65535); }
};
Grid16 grid16(bool is_signed) { return {is_signed ? -32768 : 0}; }

// One operand of matmul: [..., rows, columns], C-contiguous.
MatmulOperand operand(const py::array& x, const char* name, bool transposed, double scale, int64_t zero_point) {
  const bool is_signed = is<int8_t>(x);
  if (!is_signed && !is<uint8_t>(x)) throw Error(Code::dtype, std::string(name) + " must be uint8 or int8, got " + dtype_of(x));
  if (x.ndim() < 2) throw Error(Code::shape, std::string(name) + " must have at least 2 dimensions, got shape " + shape_of(x));
  need_contiguous(x, name);
  const int64_t rows = x.shape(x.ndim() - 2), columns = x.shape(x.ndim() - 1);
  if (zero_point < -128 || zero_point > 255)
    throw Error(Code::quantization, std::string(name) + "_zero_point is off the grid: " + std::to_string(zero_point));
  return {static_cast<const uint8_t*>(x.data()), rows * columns, columns, transposed, is_signed, static_cast<float>(scale),
          static_cast<int32_t>(zero_point)};
}

void bind_matmul(const py::array& a, const py::array& b, py::array& out, double a_scale, int64_t a_zero_point, double b_scale,
                 int64_t b_zero_point, double out_scale, int64_t out_zero_point, std::optional<double> lo,
                 std::optional<double> hi, bool transpose_a, bool transpose_b) {
  const MatmulOperand x = operand(a, "a", transpose_a, a_scale, a_zero_point),
                      y = operand(b, "b", transpose_b, b_scale, b_zero_point);
  const OutputSpec o = output_spec(out, out_scale, out_zero_point, lo, hi);
  need_contiguous(out, "out");
  need_writeable(out, "out");
  need_apart(out, a, "a");
  need_apart(out, b, "b");
  const py::ssize_t d = a.ndim();
  if (b.ndim() != d || out.ndim() != d)
    throw Error(Code::shape,
                "a, b and out must have the same rank, got " + shape_of(a) + ", " + shape_of(b) + ", " + shape_of(out));
  int64_t batch = 1;
  for (py::ssize_t i = 0; i + 2 < d; ++i) {
    if (b.shape(i) != a.shape(i) || out.shape(i) != a.shape(i))
      throw Error(Code::shape, "leading dimensions must agree, got " + shape_of(a) + ", " + shape_of(b) + ", " + shape_of(out) +
                                   "; broadcast them first");
    batch *= a.shape(i);
  }
  const int64_t m = a.shape(transpose_a ? d - 1 : d - 2), k = a.shape(transpose_a ? d - 2 : d - 1);
  const int64_t n = b.shape(transpose_b ? d - 2 : d - 1), kb = b.shape(transpose_b ? d - 1 : d - 2);
  if (k != kb)
    throw Error(Code::shape, "a has K = " + std::to_string(k) + " " + shape_of(a) + " but b has K = " + std::to_string(kb) + " " +
                                 shape_of(b));
  if (out.shape(d - 2) != m || out.shape(d - 1) != n)
    throw Error(Code::shape, "out must end in (" + std::to_string(m) + ", " + std::to_string(n) + "), got " + shape_of(out));
  void* c = out.mutable_data();
  const ptrdiff_t ldc = n * out.itemsize();
  py::gil_scoped_release release;
  matmul(batch, m, n, k, x, y, c, m * ldc, ldc, o);
}

// Rows that are quantized already, each with an encoding of its own.
void bind_linear_rows(const py::array& q, const py::array& scale, const py::array& zero_point, const py::array& packed,
                      py::array& out, std::optional<double> lo, std::optional<double> hi) {
  const PackedView w = view_of(packed);
  need_dtype<uint8_t>(q, "q");
  need_dtype<float>(out, "out");
  need_matrices(q, out, w);
  need_dynamic(w);
  const int64_t rows = q.shape(0);
  const float* s = vector_of<float>(scale, "scale", rows);
  const int32_t* z = vector_of<int32_t>(zero_point, "zero_point", rows);
  need_apart(out, scale, "scale");
  need_apart(out, zero_point, "zero_point");
  for (int64_t i = 0; i < rows; ++i) {
    if (!(std::isfinite(s[i]) && s[i] > 0))
      throw Error(Code::quantization,
                  "scale of row " + std::to_string(i) + " must be finite and > 0, got " + std::to_string(s[i]));
    if (z[i] < 0 || z[i] > 255)
      throw Error(Code::quantization,
                  "zero_point of row " + std::to_string(i) + " must lie in 0..255, got " + std::to_string(z[i]));
  }
  const OutputSpec o = output_spec(out, 1.0, 0, lo, hi);
  const auto* a = static_cast<const uint8_t*>(q.data());
  void* c = out.mutable_data();
  const ptrdiff_t lda = q.strides(0), ldc = out.strides(0);
  py::gil_scoped_release release;
  linear(w, a, rows, lda, c, ldc, o, {z, s});
}

}  // namespace

void bind_gemm(py::module_& m) {
  using namespace py::literals;
  m.def(
      "pack_linear",
      [](const py::array& weight, const py::array& scale, std::optional<py::array> zero_point, std::optional<py::array> bias,
         std::optional<py::array> bias_int32, int bits, int64_t group_size, double x_scale, int64_t x_zero_point,
         const std::string& name) {
        need_dtype<int8_t>(weight, "weight");
        need_rank(weight, "weight", 2, "[N, K]");
        need_contiguous(weight, "weight");
        PackSpec s;
        s.kind = PackedKind::linear;
        s.n = weight.shape(0);
        s.k = weight.shape(1);
        s.weight = static_cast<const int8_t*>(weight.data());
        s.group_size = group_size;
        pack_arguments(s, scale, zero_point, bias, bias_int32, bits, x_scale, x_zero_point, name);
        return pack_spec(s);
      },
      "weight"_a, "scale"_a, "zero_point"_a = py::none(), "bias"_a = py::none(), "bias_int32"_a = py::none(), "bits"_a = 8,
      "group_size"_a = 0, "x_scale"_a = 1.0, "x_zero_point"_a = 0, "name"_a = "");
  m.def(
      "pack_conv2d",
      [](const py::array& weight, const py::array& scale, std::optional<py::array> zero_point, std::optional<py::array> bias,
         std::optional<py::array> bias_int32, int64_t groups, int bits, double x_scale, int64_t x_zero_point,
         const std::string& name) {
        need_dtype<int8_t>(weight, "weight");
        need_rank(weight, "weight", 4, "[Cout, Cin/groups, KH, KW]");
        need_contiguous(weight, "weight");
        PackSpec s;
        s.n = weight.shape(0);
        s.groups = groups;
        s.cin_g = weight.shape(1);
        s.kh = weight.shape(2);
        s.kw = weight.shape(3);
        s.kind = s.cin_g == 1 && s.n == groups && groups > 1 ? PackedKind::depthwise : PackedKind::conv;
        s.weight = static_cast<const int8_t*>(weight.data());
        pack_arguments(s, scale, zero_point, bias, bias_int32, bits, x_scale, x_zero_point, name);
        return pack_spec(s);
      },
      "weight"_a, "scale"_a, "zero_point"_a = py::none(), "bias"_a = py::none(), "bias_int32"_a = py::none(), "groups"_a = 1,
      "bits"_a = 8, "x_scale"_a = 1.0, "x_zero_point"_a = 0, "name"_a = "");
  m.def("packed_info", &info, "packed"_a);
  m.def("unpack_weight", &unpack_weight, "packed"_a);
  m.def(
      "linear",
      [](const py::array& x, const py::array& packed, py::array& out, double out_scale, int64_t out_zero_point,
         std::optional<double> lo, std::optional<double> hi) {
        const PackedView w = view_of(packed);
        const bool is_signed = is<int8_t>(x);
        if (!is_signed && !is<uint8_t>(x))
          throw Error(Code::dtype, "x must be uint8 or int8, got " + dtype_of(x) +
                                       "; quantize it first, or use linear_dynamic (float32) or linear16 (16 bits)");
        need_matrices(x, out, w);
        const OutputSpec o = output_spec(out, out_scale, out_zero_point, lo, hi);
        const auto* a = static_cast<const uint8_t*>(x.data());
        void* c = out.mutable_data();
        const int64_t rows = x.shape(0);
        ptrdiff_t lda = x.strides(0);
        const ptrdiff_t ldc = out.strides(0);
        py::gil_scoped_release release;
        if (is_signed) {
          a = unsigned_rows(a, rows, w.k, lda);
          lda = w.k;
        }
        linear(w, a, rows, lda, c, ldc, o);
      },
      "x"_a, "packed"_a, "out"_a, "out_scale"_a = 1.0, "out_zero_point"_a = 0, "lo"_a = py::none(), "hi"_a = py::none());
  m.def(
      "linear16",
      [](const py::array& x, const py::array& packed, py::array& out, double x_scale, int64_t x_zero_point, double out_scale,
         int64_t out_zero_point, std::optional<double> lo, std::optional<double> hi) {
        const PackedView w = view_of(packed);
        const bool is_signed = is<int16_t>(x);
        if (!is_signed && !is<uint16_t>(x)) throw Error(Code::dtype, "x must be uint16 or int16, got " + dtype_of(x));
        need_matrices(x, out, w);
        const float xs = static_cast<float>(x_scale);
        if (!(std::isfinite(xs) && xs > 0))
          throw Error(Code::quantization, "x_scale must be finite and > 0, got " + std::to_string(x_scale));
        const Grid16 in = grid16(is_signed);
        if (x_zero_point < in.least || x_zero_point > in.least + 65535)
          throw Error(Code::quantization, "x_zero_point must lie in " + in.range() + ", got " + std::to_string(x_zero_point));
        const bool out16 = is<uint16_t>(out) || is<int16_t>(out);
        OutputSpec o;
        if (out16) {
          o.f_lo = -std::numeric_limits<float>::infinity();
          o.f_hi = std::numeric_limits<float>::infinity();
          o.type = OutType::u8;  // bytes, twice as wide: out16 says so
          o.scale = static_cast<float>(out_scale);
          if (!(std::isfinite(o.scale) && o.scale > 0 && std::isfinite(1.0f / o.scale)))
            throw Error(Code::quantization, "out_scale must be finite and > 0 in float32, got " + std::to_string(out_scale) +
                                                "; recalibrate the output's quantizer");
          const Grid16 grid = grid16(is<int16_t>(out));
          const auto on_grid = [&](double v, const char* name) {
            if (!(v >= grid.least && v <= grid.least + 65535) || v != std::floor(v))
              throw Error(Code::quantization, std::string(name) + " must be an integer in " + grid.range() +
                                                  " for this output, got " + std::to_string(v));
            return static_cast<int32_t>(v);
          };
          o.zero_point = on_grid(static_cast<double>(out_zero_point), "out_zero_point");
          o.lo = on_grid(lo.value_or(grid.least), "lo");
          o.hi = on_grid(hi.value_or(grid.least + 65535), "hi");
          if (o.lo > o.hi) throw Error(Code::quantization, "lo must not exceed hi");
        } else {
          if (!is<float>(out) && !is<uint8_t>(out) && !is<int8_t>(out))
            throw Error(Code::dtype, "out must be float32, uint8, int8, uint16 or int16, got " + dtype_of(out));
          o = output_spec(out, out_scale, out_zero_point, lo, hi);
          if (o.type == OutType::s8) o.zero_point -= 128, o.lo -= 128, o.hi -= 128;  // on its own grid here
        }
        const auto* a = static_cast<const uint16_t*>(x.data());
        void* c = out.mutable_data();
        const int64_t rows = x.shape(0), lda = x.strides(0) / 2;
        const ptrdiff_t ldc = out.strides(0);
        py::gil_scoped_release release;
        linear16(w, a, rows, lda, c, ldc, o, out16, {xs, static_cast<int32_t>(x_zero_point - in.least), is_signed});
      },
      "x"_a, "packed"_a, "out"_a, "x_scale"_a, "x_zero_point"_a, "out_scale"_a = 1.0, "out_zero_point"_a = 0, "lo"_a = py::none(),
      "hi"_a = py::none());
  m.def("matmul", &bind_matmul, "a"_a, "b"_a, "out"_a, "a_scale"_a, "a_zero_point"_a, "b_scale"_a, "b_zero_point"_a,
        "out_scale"_a = 1.0, "out_zero_point"_a = 0, "lo"_a = py::none(), "hi"_a = py::none(), "transpose_a"_a = false,
        "transpose_b"_a = false);
  m.def(
      "linear_dynamic",
      [](const py::array& x, const py::array& packed, py::array& out, bool per_row, bool symmetric, std::optional<double> lo,
         std::optional<double> hi) {
        const PackedView w = view_of(packed);
        need_dtype<float>(x, "x");
        need_dtype<float>(out, "out");
        need_matrices(x, out, w);
        need_dynamic(w);
        const OutputSpec o = output_spec(out, 1.0, 0, lo, hi);
        const auto* a = static_cast<const float*>(x.data());
        auto* c = static_cast<float*>(out.mutable_data());
        const int64_t rows = x.shape(0);
        const ptrdiff_t ldx = x.strides(0) / 4, ldc = out.strides(0);
        py::gil_scoped_release release;
        linear_dynamic(w, a, rows, ldx, c, ldc, per_row, symmetric, o.f_lo, o.f_hi);
      },
      "x"_a, "packed"_a, "out"_a, "per_row"_a = true, "symmetric"_a = false, "lo"_a = py::none(), "hi"_a = py::none());
  m.def("linear_rows", &bind_linear_rows, "q"_a, "scale"_a, "zero_point"_a, "packed"_a, "out"_a, "lo"_a = py::none(),
        "hi"_a = py::none());
}

}  // namespace qgemm
