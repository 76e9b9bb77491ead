// Moves and interpolation of images.
#include <array>
#include <vector>

#include "bind.h"
#include "ops/images.h"

namespace qgemm {
namespace {

ImageShape image_of(const py::array& x) {
  need_dtype<uint8_t>(x, "x");
  need_rank(x, "x", 4, "[B, H, W, C] (NHWC)");
  need_contiguous(x, "x");
  return {x.shape(0), x.shape(1), x.shape(2), x.shape(3)};
}

uint8_t* result_of(py::array& out, const py::array& x, int64_t h, int64_t w, int64_t c) {
  need_dtype<uint8_t>(out, "out");
  if (out.ndim() != 4 || out.shape(0) != x.shape(0) || out.shape(1) != h || out.shape(2) != w || out.shape(3) != c)
    throw Error(Code::shape, "out must have shape (" + std::to_string(x.shape(0)) + ", " + std::to_string(h) + ", " +
                                 std::to_string(w) + ", " + std::to_string(c) + ") for x of shape " + shape_of(x) + ", got " +
                                 shape_of(out));
  need_output(out, x, "x");
  return static_cast<uint8_t*>(out.mutable_data());
}

const int32_t* indices_of(const py::array& a, const char* name, int64_t count, int64_t limit) {
  const int32_t* p = vector_of<int32_t>(a, name, count);
  for (int64_t i = 0; i < count; ++i)
    if (p[i] < 0 || p[i] >= limit)
      throw Error(Code::shape, std::string(name) + "[" + std::to_string(i) + "] = " + std::to_string(p[i]) + " is outside 0.." +
                                   std::to_string(limit - 1));
  return p;
}

LinearAxis axis_of(const py::array& lo, const py::array& hi, const py::array& t, const char* name, int64_t limit) {
  const int64_t n = lo.ndim() == 1 ? lo.shape(0) : -1;
  const std::string axis(name);
  LinearAxis a{n, indices_of(lo, (axis + "_lo").c_str(), n, limit), indices_of(hi, (axis + "_hi").c_str(), n, limit),
               vector_of<float>(t, (axis + "_t").c_str(), n)};
  for (int64_t i = 0; i < n; ++i)
    if (!(a.t[i] >= 0 && a.t[i] <= 1)) throw Error(Code::shape, axis + "_t must lie in 0..1, got " + std::to_string(a.t[i]));
  return a;
}

}  // namespace

void bind_images(py::module_& m) {
  using namespace py::literals;
  m.def(
      "resize_nearest",
      [](const py::array& x, py::array& out, const py::array& ys, const py::array& xs) {
        const ImageShape s = image_of(x);
        const int64_t oh = ys.ndim() == 1 ? ys.shape(0) : -1, ow = xs.ndim() == 1 ? xs.shape(0) : -1;
        const int32_t *y = indices_of(ys, "ys", oh, s.h), *w = indices_of(xs, "xs", ow, s.w);
        uint8_t* to = result_of(out, x, oh, ow, s.c);
        const auto* from = static_cast<const uint8_t*>(x.data());
        py::gil_scoped_release release;
        resize_nearest(from, s, oh, ow, y, w, to);
      },
      "x"_a, "out"_a, "ys"_a, "xs"_a);
  m.def(
      "resize_linear",
      [](const py::array& x, py::array& out, const py::array& y_lo, const py::array& y_hi, const py::array& y_t,
         const py::array& x_lo, const py::array& x_hi, const py::array& x_t, double x_scale, int64_t x_zero_point,
         double out_scale, int64_t out_zero_point, std::optional<double> lo, std::optional<double> hi) {
        const ImageShape s = image_of(x);
        const LinearAxis y = axis_of(y_lo, y_hi, y_t, "y", s.h), w = axis_of(x_lo, x_hi, x_t, "x", s.w);
        uint8_t* to = result_of(out, x, y.n, w.n, s.c);
        check_encoding("x", x_scale, x_zero_point);
        const OutputSpec o = output_spec(out, out_scale, out_zero_point, lo, hi);
        const Encoding8 e{static_cast<float>(x_scale), static_cast<int32_t>(x_zero_point)};
        const auto* from = static_cast<const uint8_t*>(x.data());
        py::gil_scoped_release release;
        resize_linear(from, s, e, y, w, to, o);
      },
      "x"_a, "out"_a, "y_lo"_a, "y_hi"_a, "y_t"_a, "x_lo"_a, "x_hi"_a, "x_t"_a, "x_scale"_a, "x_zero_point"_a, "out_scale"_a,
      "out_zero_point"_a, "lo"_a = py::none(), "hi"_a = py::none());
  m.def(
      "pad_image",
      [](const py::array& x, py::array& out, const std::array<int64_t, 4>& padding, int64_t value) {
        const ImageShape s = image_of(x);
        for (const int64_t p : padding)
          if (p < 0 || p >= int64_t(1) << 31) throw Error(Code::shape, "pad_image: padding must lie in 0..2^31-1");
        if (value < 0 || value > 255) throw Error(Code::quantization, "pad_image: value must lie in 0..255");
        const auto [top, left, bottom, right] = padding;
        uint8_t* to = result_of(out, x, top + s.h + bottom, left + s.w + right, s.c);
        const auto* from = static_cast<const uint8_t*>(x.data());
        py::gil_scoped_release release;
        pad_image(from, s, padding[0], padding[1], padding[2], padding[3], static_cast<uint8_t>(value), to);
      },
      "x"_a, "out"_a, "padding"_a, "value"_a);
  m.def(
      "depth_to_space",
      [](const py::array& x, py::array& out, int64_t block, bool channels_first) {
        const ImageShape s = image_of(x);
        if (block < 1 || block >= int64_t(1) << 15 || s.c % (block * block) != 0)
          throw Error(Code::shape, "depth_to_space: " + std::to_string(s.c) +
                                       " channels are no multiple of the square of the block, " + std::to_string(block));
        uint8_t* to = result_of(out, x, s.h * block, s.w * block, s.c / (block * block));
        const auto* from = static_cast<const uint8_t*>(x.data());
        py::gil_scoped_release release;
        depth_to_space(from, s, block, channels_first, to);
      },
      "x"_a, "out"_a, "block"_a, "channels_first"_a);
  m.def(
      "space_to_depth",
      [](const py::array& x, py::array& out, int64_t block, bool channels_first) {
        const ImageShape s = image_of(x);
        if (block < 1 || block >= int64_t(1) << 15 || s.h % block != 0 || s.w % block != 0)
          throw Error(Code::shape, "space_to_depth: an image of " + std::to_string(s.h) + " x " + std::to_string(s.w) +
                                       " does not consist of whole blocks of " + std::to_string(block) + " x " +
                                       std::to_string(block) + "; pad it");
        uint8_t* to = result_of(out, x, s.h / block, s.w / block, s.c * block * block);
        const auto* from = static_cast<const uint8_t*>(x.data());
        py::gil_scoped_release release;
        space_to_depth(from, s, block, channels_first, to);
      },
      "x"_a, "out"_a, "block"_a, "channels_first"_a);
  m.def(
      "permute_channels",
      [](const py::array& x, py::array& out, const py::array& index) {
        const ImageShape s = image_of(x);
        const int32_t* at = indices_of(index, "index", s.c, s.c);
        uint8_t* to = result_of(out, x, s.h, s.w, s.c);
        const auto* from = static_cast<const uint8_t*>(x.data());
        py::gil_scoped_release release;
        permute_channels(from, s.batch * s.h * s.w, s.c, at, to);
      },
      "x"_a, "out"_a, "index"_a);
}

}  // namespace qgemm
