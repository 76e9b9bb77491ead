// An elementwise expression with the grids of what goes in and comes out, behind _core.Expression.
#pragma once
#include <array>
#include <tuple>
#include <utility>
#include <vector>

#include "bind.h"
#include "ops/expression.h"

namespace qgemm {

struct BoundExpression {
  Expression e;
  std::vector<Encoding8> in;
  std::vector<OutputSpec> out;

  BoundExpression(const std::vector<std::pair<double, int64_t>>& grids, const std::vector<std::array<int32_t, 5>>& operations,
                  const std::vector<std::array<float, 4>>& parameters, const std::vector<int32_t>& results,
                  const std::vector<std::tuple<double, int64_t, int64_t, int64_t>>& specs);

  void call(const std::vector<py::array>& inputs, std::vector<py::array>& outputs) const;
};

// Throws Error(dtype) for what an expression does not read, or, as an output, write.
Element element_of(const py::dtype& d, const std::string& name, bool output);

}  // namespace qgemm
