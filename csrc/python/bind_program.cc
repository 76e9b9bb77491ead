// Programs: a builder that Python fills, and the call that runs what was built on torch tensors or numpy arrays.
#include <array>

#include "compiled.h"
#include "ops/conv.h"
#include "ops/eltwise.h"
#include "ops/matmul.h"
#include "ops/move.h"
#include "ops/planar.h"
#include "ops/pool.h"
#include "ops/quantize.h"
#include "ops/rows.h"

namespace qgemm {
namespace {

struct FrameHolder {
  std::shared_ptr<Compiled> owner;
  std::unique_ptr<Program::Frame> frame;
  ~FrameHolder() {
    if (frame) owner->program.give(std::move(frame));
  }
};

// ---- building ----

void add_linear(Compiled& c, At x, At y, const py::array& packed, int64_t rows, bool floats, double scale, int64_t zero_point,
                std::optional<double> lo, std::optional<double> hi) {
  const PackedView w = view_of(packed);
  const OutputSpec o = c.spec(floats, scale, zero_point, lo, hi);
  c.kept.push_back(packed);
  const Place from = place(x), to = place(y);
  const auto ldc = static_cast<ptrdiff_t>(w.n * static_cast<int64_t>(out_size(o.type)));
  c.program.add("linear", {rows * w.n * w.k, rows * (w.k + ldc) + w.total_bytes}, {from.buffer, to.buffer},
                [w, o, from, to, rows, ldc](Addresses a) {
                  linear(w, reinterpret_cast<const uint8_t*>(at(a, from)), rows, w.k, at(a, to), ldc, o);
                });
}

void add_linear16(Compiled& c, At x, At y, const py::array& packed, int64_t rows, double x_scale, int64_t x_zero_point,
                  bool floats, double scale, int64_t zero_point, std::optional<double> lo, std::optional<double> hi) {
  const PackedView w = view_of(packed);
  const OutputSpec o = c.spec(floats, scale, zero_point, lo, hi);
  c.kept.push_back(packed);
  const Place from = place(x), to = place(y);
  const Encoding16 ex{static_cast<float>(x_scale), static_cast<int32_t>(x_zero_point)};
  const auto ldc = static_cast<ptrdiff_t>(w.n * static_cast<int64_t>(out_size(o.type)));
  c.program.add("linear16", {2 * rows * w.n * w.k, rows * (2 * w.k + ldc) + w.total_bytes}, {from.buffer, to.buffer},
                [w, o, from, to, rows, ldc, ex](Addresses a) {
                  linear16(w, reinterpret_cast<const uint16_t*>(at(a, from)), rows, w.k, at(a, to), ldc, o, false, ex);
                });
}

void add_conv2d(Compiled& c, At x, At y, const py::array& packed, const std::array<int64_t, 4>& shape,
                const std::array<int64_t, 2>& stride, const std::array<int64_t, 4>& padding,
                const std::array<int64_t, 2>& dilation, bool floats, double scale, int64_t zero_point, std::optional<double> lo,
                std::optional<double> hi, int64_t x_stride, int64_t out_stride) {
  const PackedView w = view_of(packed);
  const OutputSpec o = c.spec(floats, scale, zero_point, lo, hi);
  Window g = window(shape, {w.kh, w.kw}, stride, padding, dilation);
  g.x_stride = x_stride;
  g.check("conv2d");
  c.kept.push_back(packed);
  const Place from = place(x), to = place(y);
  const int64_t pixels = g.batch * g.out_h() * g.out_w();
  c.program.add(
      w.kind == PackedKind::depthwise ? "conv2d depthwise" : "conv2d",
      {pixels * w.n * w.k, g.batch * g.h * g.w * g.c + pixels * w.n * static_cast<int64_t>(out_size(o.type)) + w.total_bytes},
      {from.buffer, to.buffer}, [w, o, g, from, to, out_stride](Addresses a) {
        conv2d(w, g, reinterpret_cast<const uint8_t*>(at(a, from)), at(a, to), o, nullptr, nullptr, out_stride);
      });
}

void add_max_pool2d(Compiled& c, At x, At y, const std::array<int64_t, 4>& shape, const std::array<int64_t, 2>& kernel,
                    const std::array<int64_t, 2>& stride, const std::array<int64_t, 4>& padding,
                    const std::array<int64_t, 2>& dilation, int64_t x_stride, int64_t out_stride) {
  Window g = window(shape, kernel, stride, padding, dilation);
  g.x_stride = x_stride;
  g.check("max_pool2d");
  const Place from = place(x), to = place(y);
  const int64_t out = g.batch * g.out_h() * g.out_w() * g.c;
  c.program.add("max_pool2d", {0, out * (g.kh * g.kw + 1)}, {from.buffer, to.buffer}, [g, from, to, out_stride](Addresses a) {
    max_pool2d(g, reinterpret_cast<const uint8_t*>(at(a, from)), reinterpret_cast<uint8_t*>(at(a, to)), out_stride);
  });
}

void add_avg_pool2d(Compiled& c, At x, At y, const std::array<int64_t, 4>& shape, const std::array<int64_t, 2>& kernel,
                    const std::array<int64_t, 2>& stride, const std::array<int64_t, 4>& padding, bool count_include_pad,
                    double x_scale, int64_t x_zero_point, bool floats, double scale, int64_t zero_point, std::optional<double> lo,
                    std::optional<double> hi, int64_t x_stride, int64_t out_stride) {
  Window g = window(shape, kernel, stride, padding, {1, 1});
  g.x_stride = x_stride;
  g.check("avg_pool2d");
  check_encoding("x", x_scale, x_zero_point);
  const OutputSpec o = c.spec(floats, scale, zero_point, lo, hi);
  const Encoding8 ex{static_cast<float>(x_scale), static_cast<int32_t>(x_zero_point)};
  const Place from = place(x), to = place(y);
  const int64_t out = g.batch * g.out_h() * g.out_w() * g.c;
  c.program.add("avg_pool2d", {0, out * (g.kh * g.kw + static_cast<int64_t>(out_size(o.type)))}, {from.buffer, to.buffer},
                [=, ends = average_ends(g, ex, count_include_pad, o)](Addresses a) {
                  avg_pool2d(g, reinterpret_cast<const uint8_t*>(at(a, from)), ex, count_include_pad, at(a, to), o, out_stride,
                             ends.get());
                });
}

// Rows of n bytes, ldx and ldy bytes apart.
void add_lut(Compiled& c, At x, At y, const py::array& table, int64_t rows, int64_t n, int64_t ldx, int64_t ldy) {
  const uint8_t* t = vector_of<uint8_t>(table, "table", 256);
  c.kept.push_back(table);
  const Place from = place(x), to = place(y);
  c.program.add(
      "lut", {0, 2 * rows * n}, {from.buffer, to.buffer},
      [=](Addresses a) {
        lut(reinterpret_cast<const uint8_t*>(at(a, from)), ldx, t, reinterpret_cast<uint8_t*>(at(a, to)), ldy, rows, n);
      },
      c.whole(from, to, rows * n));
}

// bytes: 1 or 2 of the integers.
void add_quantize(Compiled& c, At x, At y, int64_t n, double scale, int64_t zero_point, int64_t qmax, int bytes) {
  const Place from = place(x), to = place(y);
  const auto s = static_cast<float>(scale);
  const auto z = static_cast<int32_t>(zero_point);
  c.program.add("quantize", {0, n * (4 + bytes)}, {from.buffer, to.buffer}, [=](Addresses a) {
    quantize(reinterpret_cast<const float*>(at(a, from)), at(a, to), {bytes, false}, {1, 1, n}, &s, &z, 0, qmax);
  });
}

void add_quantize_planes(Compiled& c, At x, At y, int64_t batch, int64_t channels, int64_t pixels, double scale,
                         int64_t zero_point, int64_t qmax) {
  const Place from = place(x), to = place(y);
  const auto s = static_cast<float>(scale);
  const auto z = static_cast<int32_t>(zero_point), top = static_cast<int32_t>(qmax);
  c.program.add("quantize", {0, batch * channels * pixels * 5}, {from.buffer, to.buffer}, [=](Addresses a) {
    quantize_planes(reinterpret_cast<const float*>(at(a, from)), batch, channels, pixels, s, z, top,
                    reinterpret_cast<uint8_t*>(at(a, to)));
  });
}

void add_dequantize(Compiled& c, At x, At y, int64_t n, double scale, int64_t zero_point, int bytes) {
  const Place from = place(x), to = place(y);
  const auto s = static_cast<float>(scale);
  const auto z = static_cast<int32_t>(zero_point);
  c.program.add("dequantize", {0, n * (4 + bytes)}, {from.buffer, to.buffer}, [=](Addresses a) {
    dequantize(at(a, from), reinterpret_cast<float*>(at(a, to)), {bytes, false}, {1, 1, n}, &s, &z);
  });
}

void add_copy(Compiled& c, At x, At y, int64_t element, const std::vector<int64_t>& shape, const std::vector<int64_t>& strides) {
  if (shape.size() != strides.size() || shape.size() > Strided::kMaxRank)
    throw Error(Code::shape, "copy: shape and strides must have one length of at most 8");
  Strided s;
  s.rank = static_cast<int>(shape.size());
  s.element = element;
  int64_t n = 1;
  for (size_t i = 0; i < shape.size(); ++i) {
    s.shape[i] = shape[i];
    s.stride[i] = strides[i];
    n *= shape[i];
  }
  s = simplified(s);
  const Place from = place(x), to = place(y);
  c.program.add("copy", {0, 2 * n * element}, {from.buffer, to.buffer},
                [s, from, to](Addresses a) { copy_strided(at(a, from), s, at(a, to)); });
}

std::vector<CopyRun> runs_of(const py::array& table) {
  if (!is<int64_t>(table) || table.ndim() != 2 || table.shape(1) != 6)
    throw Error(Code::shape, "runs must be int64 [N, 6]: from, to, bytes, count, from_step, to_step");
  need_contiguous(table, "runs");
  const auto* t = static_cast<const int64_t*>(table.data());
  std::vector<CopyRun> runs;
  for (py::ssize_t i = 0; i < table.shape(0); ++i, t += 6) runs.push_back({t[0], t[1], t[2], t[3], t[4], t[5]});
  return runs;
}

int64_t bytes_of(const std::vector<CopyRun>& runs) {
  int64_t n = 0;
  for (const CopyRun& r : runs) n += r.bytes * r.count;
  return n;
}

void add_runs(Compiled& c, At x, At y, const py::array& table) {
  const std::vector<CopyRun> runs = runs_of(table);
  const Place from = place(x), to = place(y);
  c.program.add("copy", {0, 2 * bytes_of(runs)}, {from.buffer, to.buffer},
                [runs, from, to](Addresses a) { copy_runs(at(a, from), at(a, to), runs); });
}

void add_fill(Compiled& c, At y, int64_t value, const py::array& table) {
  const std::vector<CopyRun> runs = runs_of(table);
  const Place to = place(y);
  c.program.add("fill", {0, bytes_of(runs)}, {to.buffer},
                [runs, to, value](Addresses a) { fill_runs(at(a, to), static_cast<uint8_t>(value), runs); });
}

void add_matmul(Compiled& c, int64_t batch, int64_t m, int64_t n, int64_t k, const Matrix& x1, const Matrix& x2, const Matrix& y,
                bool floats, double scale, int64_t zero_point, std::optional<double> lo, std::optional<double> hi) {
  check_encoding("a", x1.scale, x1.zero_point);
  check_encoding("b", x2.scale, x2.zero_point);
  const OutputSpec o = c.spec(floats, scale, zero_point, lo, hi);
  const Place pa = place(x1.at), pb = place(x2.at), to = place(y.at);
  auto operand = [](const Matrix& x) {
    return MatmulOperand{
        nullptr, x.batches, x.ld, x.transposed, false, static_cast<float>(x.scale), static_cast<int32_t>(x.zero_point)};
  };
  const MatmulOperand ea = operand(x1), eb = operand(x2);
  const auto element = static_cast<int64_t>(out_size(o.type));
  const Batches batches = y.bytes(element);
  const auto ldc = static_cast<ptrdiff_t>(y.ld * element);
  c.program.add("matmul", {batch * m * n * k, batch * (m * k + k * n + m * n * element)}, {pa.buffer, pb.buffer, to.buffer},
                [=](Addresses a) {
                  MatmulOperand oa = ea, ob = eb;
                  oa.data = reinterpret_cast<const uint8_t*>(at(a, pa));
                  ob.data = reinterpret_cast<const uint8_t*>(at(a, pb));
                  matmul(batch, m, n, k, oa, ob, at(a, to), batches, ldc, o);
                });
}

// Bytes on a grid, or fp32.
struct RowSource {
  Place at;
  bool is_u8;
  Encoding8 encoding;

  RowSource(const At& x, bool u8, double scale, int64_t zero_point)
      : at(place(x)), is_u8(u8), encoding{static_cast<float>(scale), static_cast<int32_t>(zero_point)} {
    if (u8) check_encoding("x", scale, zero_point);
  }
  RowInput input(Addresses a) const { return {qgemm::at(a, at), is_u8, encoding}; }
  int64_t element() const { return is_u8 ? 1 : 4; }
};

void add_softmax(Compiled& c, At x, At y, int64_t rows, int64_t n, bool is_u8, double x_scale, int64_t x_zero_point, bool floats,
                 double scale, int64_t zero_point, std::optional<double> lo, std::optional<double> hi,
                 const std::optional<At>& mask, const std::array<int64_t, 3>& mask_shape,
                 const std::array<int64_t, 3>& mask_strides) {
  const RowSource from(x, is_u8, x_scale, x_zero_point);
  const OutputSpec o = c.spec(floats, scale, zero_point, lo, hi);
  const Place to = place(y), added = mask ? place(*mask) : Place{};
  Mask m;
  m.d0 = mask_shape[0];
  m.d1 = mask_shape[1];
  m.d2 = mask_shape[2];
  m.s0 = mask_strides[0];
  m.s1 = mask_strides[1];
  m.s2 = mask_strides[2];
  std::vector<int32_t> uses{from.at.buffer, to.buffer};
  if (mask) {
    if (m.d0 * m.d1 * m.d2 != rows) throw Error(Code::shape, "softmax: the mask has another number of rows");
    uses.push_back(added.buffer);
  }
  const bool masked = mask.has_value();
  // An exponential takes about as long as moving 16 bytes.
  c.program.add("softmax", {0, rows * n * (16 + from.element())}, std::move(uses), [=](Addresses a) {
    Mask bound = m;
    if (masked) bound.data = reinterpret_cast<const float*>(at(a, added));
    softmax(from.input(a), rows, n, bound, at(a, to), o);
  });
}

void add_norm(Compiled& c, At x, At y, int64_t rows, int64_t n, bool is_u8, double x_scale, int64_t x_zero_point, bool center,
              double epsilon, const std::optional<py::array>& gamma, const std::optional<py::array>& beta, bool floats,
              double scale, int64_t zero_point, std::optional<double> lo, std::optional<double> hi) {
  const RowSource from(x, is_u8, x_scale, x_zero_point);
  const OutputSpec o = c.spec(floats, scale, zero_point, lo, hi);
  const Place to = place(y);
  const float *g = vector_or_null<float>(gamma, "gamma", n), *b = vector_or_null<float>(beta, "beta", n);
  if (gamma) c.kept.push_back(*gamma);
  if (beta) c.kept.push_back(*beta);
  c.program.add("norm", {0, rows * n * (8 + from.element())}, {from.at.buffer, to.buffer},
                [=](Addresses a) { norm(from.input(a), rows, n, center, epsilon, g, b, at(a, to), o); });
}

// ---- running ----

bool all_tensors(PyObject* const* values, size_t count) {
  for (size_t i = 0; i < count; ++i)
    if (!tensors::is_tensor(values[i])) return false;
  return true;
}

bool all_arrays(PyObject* const* values, size_t count) {
  for (size_t i = 0; i < count; ++i)
    if (!py::isinstance<py::array>(values[i])) return false;
  return true;
}

// Addresses of the inputs, or false when one is not what the program was compiled for.
bool tensor_inputs(const Compiled& c, PyObject* const* values, std::vector<void*>& data) {
  for (size_t i = 0; i < c.inputs.size(); ++i) {
    const Border& b = c.inputs[i];
    dlpack::Tensor t;
    if (!tensors::strided(values[i], b.type.code, b.type.bits, t) || !b.fits(t.ndim, t.shape, t.strides, 1) ||
        (b.type.code == dlpack::kFloat && tensors::negated(values[i])))
      return false;
    data.push_back(tensors::address(t));
  }
  return true;
}

bool array_inputs(const Compiled& c, PyObject* const* values, std::vector<void*>& data) {
  for (size_t i = 0; i < c.inputs.size(); ++i) {
    const Border& b = c.inputs[i];
    const auto a = py::reinterpret_borrow<py::array>(values[i]);
    const py::dtype d = a.dtype();
    if (d.kind() != b.dtype.kind() || d.itemsize() != b.dtype.itemsize() || (d.byteorder() != '=' && d.byteorder() != '|') ||
        !(a.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_) || !b.fits(a.ndim(), a.shape(), a.strides(), a.itemsize()))
      return false;
    data.push_back(const_cast<void*>(a.data()));
  }
  return true;
}

py::array new_array(const Border& b) {
  std::vector<py::ssize_t> shape, strides;
  for (int i = 0; i < b.rank(); ++i) {
    shape.push_back(b.size(i));
    strides.push_back(b.stride(i) * b.dtype.itemsize());
  }
  return py::array(b.dtype, shape, strides);
}

// The programs of one network, compiled for different shapes; the latest used comes first.
struct Runner {
  std::vector<std::shared_ptr<Compiled>> programs;
};

py::object run(Runner& runner, PyObject* const* values, size_t count) {
  const bool as_tensors = all_tensors(values, count);
  if (!as_tensors && !all_arrays(values, count)) return py::none();
  static thread_local std::vector<void*> data;
  for (size_t i = 0; i < runner.programs.size(); ++i) {
    const std::shared_ptr<Compiled> c = runner.programs[i];
    data.clear();
    if (as_tensors && c->widest() > tensors::kMostDims) continue;
    if (c->inputs.size() != count || !(as_tensors ? tensor_inputs(*c, values, data) : array_inputs(*c, values, data))) continue;
    if (i > 0)
      std::rotate(runner.programs.begin(), runner.programs.begin() + static_cast<ptrdiff_t>(i),
                  runner.programs.begin() + static_cast<ptrdiff_t>(i) + 1);
    const size_t outs = c->outputs.size();
    std::vector<tensors::Fresh> fresh(as_tensors ? outs : 0);
    std::unique_ptr<Program::Frame> frame = c->program.take();
    for (size_t k = 0; k < count; ++k) frame->bind(c->inputs[k].buffer, data[k]);
    py::tuple answer(outs);
    for (size_t k = 0; k < outs; ++k) {
      const Border& b = c->outputs[k];
      if (as_tensors) {
        if (!fresh[k].allocate(b.memory.data(), b.rank(), b.type)) throw std::bad_alloc();
        frame->bind(b.buffer, fresh[k].data());
      } else {
        py::array a = new_array(b);
        frame->bind(b.buffer, a.mutable_data());
        answer[k] = a;
      }
    }
    {
      py::gil_scoped_release release;
      c->program.run(*frame, 0, c->program.ops().size());
    }
    c->program.give(std::move(frame));
    for (size_t k = 0; k < fresh.size(); ++k) {
      const Border& b = c->outputs[k];
      int64_t shape[tensors::kMostDims], strides[tensors::kMostDims];
      for (int axis = 0; axis < b.rank(); ++axis) {
        shape[axis] = b.size(axis);
        strides[axis] = b.stride(axis);
      }
      fresh[k].view_as(shape, strides);
      answer[k] = fresh[k].give();
    }
    return outs == 1 ? py::object(answer[0]) : py::object(std::move(answer));
  }
  return py::none();
}

PyObject* run_program(PyObject*, PyObject* const* values, Py_ssize_t count) {
  try {
    if (count < 1) throw py::type_error("run_program takes a ProgramRunner and the network's inputs");
    return run(*py::cast<Runner*>(py::handle(values[0])), values + 1, static_cast<size_t>(count - 1)).release().ptr();
  } catch (...) {
    return raise_current();
  }
}

PyMethodDef g_methods[] = {
    {"run_program", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(run_program)), METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr}};

py::list op_rows(const Compiled& c) {
  py::list rows;
  for (size_t i = 0; i < c.program.ops().size(); ++i) {
    const Program::Op& op = c.program.ops()[i];
    const int64_t times = c.program.times(i);
    rows.append(py::make_tuple(op.step, op.kernel, op.work.macs * times, op.work.bytes * times, !op.run));
  }
  return rows;
}

}  // namespace

void bind_program(py::module_& m) {
  using namespace py::literals;
  py::class_<Matrix>(m, "ProgramMatrix")
      .def(py::init(
               [](At at, const std::array<int64_t, 3>& batches, int64_t ld, bool transposed, double scale, int64_t zero_point) {
                 return Matrix{at, {batches[0], batches[1], batches[2]}, ld, transposed, scale, zero_point};
               }),
           "at"_a, "batches"_a, "ld"_a, "transposed"_a = false, "scale"_a = 1.0, "zero_point"_a = 0);
  py::class_<FrameHolder>(m, "ProgramFrame")
      .def(
          "bind", [](FrameHolder& f, int32_t buffer, const py::array& a) { f.frame->bind(buffer, const_cast<void*>(a.data())); },
          "buffer"_a, "array"_a)
      .def(
          "view",
          [](const py::object& self, At where, const std::vector<py::ssize_t>& shape, const std::vector<py::ssize_t>& strides,
             const py::dtype& dtype) {
            const auto& f = self.cast<const FrameHolder&>();
            return py::array(dtype, shape, strides, at(f.frame->addresses(), place(where)), self);
          },
          "place"_a, "shape"_a, "strides"_a, "dtype"_a)
      .def(
          "run",
          [](FrameHolder& f, size_t begin, size_t end, std::optional<py::array_t<double>> seconds) {
            double* s = seconds ? seconds->mutable_data() : nullptr;
            py::gil_scoped_release release;
            f.owner->program.run(*f.frame, begin, end, s);
          },
          "begin"_a, "end"_a, "seconds"_a = py::none());
  py::class_<Runner>(m, "ProgramRunner")
      .def(py::init<>())
      .def(
          "add",
          [](Runner& r, std::shared_ptr<Compiled> c, size_t most) {
            r.programs.insert(r.programs.begin(), std::move(c));
            if (r.programs.size() > most) r.programs.resize(most);
          },
          "program"_a, "most"_a);
  CompiledClass builder(m, "ProgramBuilder");
  builder.def(py::init<>())
      .def(
          "arena", [](Compiled& c, int64_t bytes) { return c.program.arena(bytes); }, "bytes"_a)
      .def("constant", &Compiled::constant, "array"_a)
      .def(
          "input",
          [](Compiled& c, const py::dtype& dtype, std::vector<int64_t> memory, std::vector<int32_t> order) {
            Border b = border(0, dtype, std::move(memory), std::move(order));
            b.buffer = c.program.outside(b.elements() * dtype.itemsize());
            c.inputs.push_back(b);
            return b.buffer;
          },
          "dtype"_a, "memory"_a, "order"_a)
      .def(
          "output",
          [](Compiled& c, size_t index, const py::dtype& dtype, std::vector<int64_t> memory, std::vector<int32_t> order) {
            Border b = border(0, dtype, std::move(memory), std::move(order));
            b.buffer = c.program.outside(b.elements() * dtype.itemsize());
            if (c.outputs.size() <= index) c.outputs.resize(index + 1);
            c.outputs[index] = b;
            return b.buffer;
          },
          "index"_a, "dtype"_a, "memory"_a, "order"_a)
      .def(
          "use", [](Compiled& c, size_t op, int32_t buffer) { c.program.use(op, buffer); }, "op"_a, "buffer"_a)
      .def(
          "truncate", [](Compiled& c, size_t count) { c.program.truncate(count); }, "count"_a)
      .def(
          "step", [](Compiled& c, int32_t index, std::string layer) { c.program.step(index, std::move(layer)); }, "index"_a,
          "layer"_a)
      .def(
          "island",
          [](Compiled& c, std::vector<int32_t> uses) {
            c.program.add("numpy", {}, std::move(uses), nullptr);
            return c.program.ops().size() - 1;
          },
          "uses"_a)
      .def("linear", &add_linear, "x"_a, "y"_a, "packed"_a, "rows"_a, "floats"_a, "scale"_a, "zero_point"_a, "lo"_a, "hi"_a)
      .def("linear16", &add_linear16, "x"_a, "y"_a, "packed"_a, "rows"_a, "x_scale"_a, "x_zero_point"_a, "floats"_a, "scale"_a,
           "zero_point"_a, "lo"_a, "hi"_a)
      .def("conv2d", &add_conv2d, "x"_a, "y"_a, "packed"_a, "shape"_a, "stride"_a, "padding"_a, "dilation"_a, "floats"_a,
           "scale"_a, "zero_point"_a, "lo"_a, "hi"_a, "x_stride"_a = 0, "out_stride"_a = 0)
      .def("max_pool2d", &add_max_pool2d, "x"_a, "y"_a, "shape"_a, "kernel"_a, "stride"_a, "padding"_a, "dilation"_a,
           "x_stride"_a = 0, "out_stride"_a = 0)
      .def("avg_pool2d", &add_avg_pool2d, "x"_a, "y"_a, "shape"_a, "kernel"_a, "stride"_a, "padding"_a, "count_include_pad"_a,
           "x_scale"_a, "x_zero_point"_a, "floats"_a, "scale"_a, "zero_point"_a, "lo"_a, "hi"_a, "x_stride"_a = 0,
           "out_stride"_a = 0)
      .def("lut", &add_lut, "x"_a, "y"_a, "table"_a, "rows"_a, "n"_a, "ldx"_a, "ldy"_a)
      .def("quantize", &add_quantize, "x"_a, "y"_a, "n"_a, "scale"_a, "zero_point"_a, "qmax"_a, "bytes"_a = 1)
      .def("quantize_planes", &add_quantize_planes, "x"_a, "y"_a, "batch"_a, "channels"_a, "pixels"_a, "scale"_a, "zero_point"_a,
           "qmax"_a)
      .def("dequantize", &add_dequantize, "x"_a, "y"_a, "n"_a, "scale"_a, "zero_point"_a, "bytes"_a = 1)
      .def("copy", &add_copy, "x"_a, "y"_a, "element"_a, "shape"_a, "strides"_a)
      .def("runs", &add_runs, "x"_a, "y"_a, "table"_a)
      .def("fill", &add_fill, "y"_a, "value"_a, "table"_a)
      .def("matmul", &add_matmul, "batch"_a, "m"_a, "n"_a, "k"_a, "a"_a, "b"_a, "y"_a, "floats"_a, "scale"_a, "zero_point"_a,
           "lo"_a, "hi"_a)
      .def("softmax", &add_softmax, "x"_a, "y"_a, "rows"_a, "n"_a, "is_u8"_a, "x_scale"_a, "x_zero_point"_a, "floats"_a,
           "scale"_a, "zero_point"_a, "lo"_a, "hi"_a, "mask"_a = py::none(), "mask_shape"_a = std::array<int64_t, 3>{1, 1, 1},
           "mask_strides"_a = std::array<int64_t, 3>{0, 0, 0})
      .def("norm", &add_norm, "x"_a, "y"_a, "rows"_a, "n"_a, "is_u8"_a, "x_scale"_a, "x_zero_point"_a, "center"_a, "epsilon"_a,
           "gamma"_a, "beta"_a, "floats"_a, "scale"_a, "zero_point"_a, "lo"_a, "hi"_a)
      .def("finish", [](Compiled& c) { c.program.finish(); })
      .def("__len__", [](const Compiled& c) { return c.program.ops().size(); })
      .def("ops", &op_rows)
      .def(
          "begin_loop", [](Compiled& c, int64_t times) { c.program.begin_loop(times); }, "times"_a)
      .def(
          "advance", [](Compiled& c, int32_t buffer, int64_t step) { return c.program.advance(buffer, step); }, "buffer"_a,
          "step"_a)
      .def("end_loop", [](Compiled& c) { c.program.end_loop(); })
      .def("memory",
           [](const Compiled& c) {
             const Program& p = c.program;
             return py::make_tuple(p.plan().bytes, p.plan().minimum, p.thread_bytes());
           })
      .def("take", [](const std::shared_ptr<Compiled>& c) {
        return std::unique_ptr<FrameHolder>(new FrameHolder{c, c->program.take()});
      });
  bind_program_layers(builder);
  bind_program_float(builder);
  if (PyModule_AddFunctions(m.ptr(), g_methods) != 0) throw py::error_already_set();
}

}  // namespace qgemm
