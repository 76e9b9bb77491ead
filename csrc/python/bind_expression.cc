// Elementwise fp32 expressions.
#include "bound_expression.h"

namespace qgemm {

Element element_of(const py::dtype& d, const std::string& name, bool output) {
  const bool native = d.byteorder() == '=' || d.byteorder() == '|';
  const auto is = [&](char kind, py::ssize_t bytes) { return native && d.kind() == kind && d.itemsize() == bytes; };
  if (is('f', 4)) return Element::f32;
  if (is('u', 1)) return Element::u8;
  if (is('b', 1)) return Element::boolean;
  if (!output && is('i', 4)) return Element::s32;
  if (!output && is('i', 8)) return Element::s64;
  throw Error(Code::dtype, name + " must be float32, uint8" + (output ? " or bool" : ", bool, int32 or int64") + ", got " +
                               std::string(py::str(d)));
}

BoundExpression::BoundExpression(const std::vector<std::pair<double, int64_t>>& grids,
                                 const std::vector<std::array<int32_t, 5>>& operations,
                                 const std::vector<std::array<float, 4>>& parameters, const std::vector<int32_t>& results,
                                 const std::vector<std::tuple<double, int64_t, int64_t, int64_t>>& specs) {
  for (const auto& g : grids) {
    check_encoding("x", g.first, g.second);
    in.push_back({static_cast<float>(g.first), static_cast<int32_t>(g.second)});
  }
  e.inputs = static_cast<int32_t>(grids.size());
  if (operations.size() != parameters.size() || results.size() != specs.size())
    throw Error(Code::shape, "expression: one row of parameters an operation, one grid an output");
  for (size_t k = 0; k < operations.size(); ++k) {
    Operation op{};
    op.kind = static_cast<Operation::Kind>(operations[k][0]);
    op.code = operations[k][1];
    for (int i = 0; i < 3; ++i) op.args[i] = operations[k][static_cast<size_t>(2 + i)];
    for (int i = 0; i < 4; ++i) op.p[i] = parameters[k][static_cast<size_t>(i)];
    e.operations.push_back(op);
  }
  e.outputs = results;
  e.check();
  for (const auto& s : specs)
    out.push_back(output_spec(OutType::u8, std::get<0>(s), std::get<1>(s), static_cast<double>(std::get<2>(s)),
                              static_cast<double>(std::get<3>(s))));
}

void BoundExpression::call(const std::vector<py::array>& inputs, std::vector<py::array>& outputs) const {
  if (inputs.size() != in.size() || outputs.size() != out.size() || outputs.empty())
    throw Error(Code::shape, "expression: takes " + std::to_string(in.size()) + " inputs and " + std::to_string(out.size()) +
                                 " outputs, got " + std::to_string(inputs.size()) + " and " + std::to_string(outputs.size()));
  const py::array& first = outputs[0];
  const int dims = static_cast<int>(first.ndim());
  if (dims > kMaxDims) throw Error(Code::shape, "expression: more than 8 dimensions: " + shape_of(first));
  int64_t shape[kMaxDims];
  for (int d = 0; d < dims; ++d) shape[d] = first.shape(d);
  std::vector<Source> sources;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const py::array& a = inputs[i];
    const std::string name = "input " + std::to_string(i);
    need_aligned(a, name.c_str());
    Source s{a.data(), element_of(a.dtype(), name, false), in[i], {}};
    const int missing = dims - static_cast<int>(a.ndim());
    bool fits = missing >= 0;
    for (int d = 0; fits && d < dims; ++d) {
      const int own = d - missing;
      const int64_t size = own < 0 ? 1 : a.shape(own);
      fits = size == 1 || size == shape[d];
      s.strides[d] = size == 1 ? 0 : a.strides(own) / a.itemsize();
    }
    if (!fits)
      throw Error(Code::shape, "expression: " + name + " of shape " + shape_of(a) + " does not broadcast to " + shape_of(first));
    sources.push_back(s);
  }
  std::vector<Sink> sinks;
  for (size_t i = 0; i < outputs.size(); ++i) {
    need_same_shape(outputs[i], "out", first, "the first out");
    need_contiguous(outputs[i], "out");
    need_writeable(outputs[i], "out");
    for (const py::array& a : inputs)
      if (a.data() != outputs[i].data()) need_apart(outputs[i], a, "an input");
    sinks.push_back({outputs[i].mutable_data(), element_of(outputs[i].dtype(), "out", true), out[i]});
  }
  py::gil_scoped_release release;
  evaluate(e, dims, shape, sources.data(), sinks.data());
}

void bind_expression(py::module_& m) {
  using namespace py::literals;
  py::class_<BoundExpression>(m, "Expression")
      .def(py::init<const std::vector<std::pair<double, int64_t>>&, const std::vector<std::array<int32_t, 5>>&,
                    const std::vector<std::array<float, 4>>&, const std::vector<int32_t>&,
                    const std::vector<std::tuple<double, int64_t, int64_t, int64_t>>&>(),
           "grids"_a, "operations"_a, "parameters"_a, "results"_a, "specs"_a)
      .def(
          "__call__",
          [](const BoundExpression& b, const std::vector<py::array>& inputs, std::vector<py::array> outputs) {
            b.call(inputs, outputs);
          },
          "inputs"_a, "outputs"_a);
}

}  // namespace qgemm
