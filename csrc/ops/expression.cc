#include "ops/expression.h"

#include <cmath>
#include <string>

#include "cpu/error.h"
#include "ops/threads.h"

namespace qgemm {
namespace {

// Floats a block: a dozen values of an expression fit L1.
constexpr int64_t kBlock = 512;
// Element operations for which a second thread pays.
constexpr int64_t kGrain = int64_t(1) << 15;

struct Value {
  const float* at;
  ptrdiff_t step;  // 0: one number for the whole block
};

double softplus(double x) { return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x)); }

double rare_value(Rare code, double a, double b) {
  switch (code) {
    case Rare::log:
      return std::log(a);
    case Rare::sin:
      return std::sin(a);
    case Rare::cos:
      return std::cos(a);
    case Rare::softplus:
      return softplus(a);
    case Rare::mish:
      return a * std::tanh(softplus(a));
    case Rare::expm1:
      return std::expm1(a);
    case Rare::pow:
      return std::pow(a, b);
    case Rare::mod: {  // with the divisor's sign
      const double r = std::fmod(a, b);
      return r != 0 && (r < 0) != (b < 0) ? r + b : r;
    }
  }
  return a;
}

void rare(Rare code, Value a, Value b, float* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const float v = static_cast<float>(rare_value(code, a.at[i * a.step], b.at ? b.at[i * b.step] : 0.0f));
    y[i] = std::isnan(v) ? NAN : v;
  }
}

// Elements [0, n) of a source, `stride` apart, as floats in `to`.
void load(const KernelTable& t, const Source& s, const char* at, int64_t stride, int64_t n, float* to) {
  switch (s.type) {
    case Element::f32: {
      const float* x = reinterpret_cast<const float*>(at);
      for (int64_t i = 0; i < n; ++i) to[i] = x[i * stride];
      break;
    }
    case Element::u8: {
      const uint8_t* x = reinterpret_cast<const uint8_t*>(at);
      if (stride == 1) {
        t.dequantize({x, to, static_cast<ptrdiff_t>(n), s.grid.scale, s.grid.zero_point, 1, false});
      } else {
        for (int64_t i = 0; i < n; ++i) to[i] = static_cast<float>(x[i * stride] - s.grid.zero_point) * s.grid.scale;
      }
      break;
    }
    case Element::boolean:
      for (int64_t i = 0; i < n; ++i) to[i] = reinterpret_cast<const uint8_t*>(at)[i * stride] ? 1.0f : 0.0f;
      break;
    case Element::s32:
      for (int64_t i = 0; i < n; ++i) to[i] = static_cast<float>(reinterpret_cast<const int32_t*>(at)[i * stride]);
      break;
    case Element::s64:
      for (int64_t i = 0; i < n; ++i) to[i] = static_cast<float>(reinterpret_cast<const int64_t*>(at)[i * stride]);
      break;
  }
}

// The iteration space with adjacent axes joined where every input runs through them evenly.
struct Space {
  int dims = 0;
  int64_t shape[kMaxDims];
  std::vector<Source> inputs;

  Space(int given, const int64_t* sizes, const Source* sources, int32_t count) : inputs(sources, sources + count) {
    for (int d = 0; d < given; ++d) {
      if (sizes[d] == 1) continue;
      bool joins = dims > 0;
      for (int32_t i = 0; i < count && joins; ++i)
        joins = inputs[static_cast<size_t>(i)].strides[dims - 1] == sources[i].strides[d] * sizes[d];
      if (!joins) shape[dims++] = 1;
      shape[dims - 1] *= sizes[d];
      for (int32_t i = 0; i < count; ++i) inputs[static_cast<size_t>(i)].strides[dims - 1] = sources[i].strides[d];
    }
    if (dims == 0) {
      dims = 1;
      shape[0] = 1;
      for (Source& s : inputs) s.strides[0] = 0;
    }
  }
};

// One thread's blocks.
class Evaluator {
 public:
  Evaluator(const Expression& e, const Space& space, const Sink* outputs)
      : t_(table()), e_(e), space_(space), outputs_(outputs), count_(e.inputs + static_cast<int32_t>(e.operations.size())) {
    static thread_local Scratch<float> scratch;
    blocks_ = scratch.get(count_ * kBlock);
    values_.resize(static_cast<size_t>(count_));
    direct_.assign(static_cast<size_t>(count_), -1);
    for (size_t o = 0; o < e.outputs.size(); ++o)
      if (outputs[o].type == Element::f32 && e.outputs[o] >= e.inputs)
        direct_[static_cast<size_t>(e.outputs[o])] = static_cast<int>(o);
  }

  // Elements [first, first + n) of the last axis, at `outer` of the others.
  void block(int64_t outer, int64_t first, int64_t n) {
    const int last = space_.dims - 1;
    const int64_t at = outer * space_.shape[last] + first;
    for (int32_t i = 0; i < e_.inputs; ++i) source(i, outer, first, n);
    for (int32_t k = 0; k < static_cast<int32_t>(e_.operations.size()); ++k) operation(k, at, n);
    for (size_t o = 0; o < e_.outputs.size(); ++o) sink(o, at, n);
  }

 private:
  float* slot(int32_t v) { return blocks_ + v * kBlock; }

  void source(int32_t i, int64_t outer, int64_t first, int64_t n) {
    const Source& s = space_.inputs[static_cast<size_t>(i)];
    const int last = space_.dims - 1;
    int64_t offset = first * s.strides[last];
    for (int d = last - 1; d >= 0; --d) {
      offset += outer % space_.shape[d] * s.strides[d];
      outer /= space_.shape[d];
    }
    const char* at = static_cast<const char*>(s.data) + offset * element_bytes(s.type);
    const int64_t stride = s.strides[last];
    Value& v = values_[static_cast<size_t>(i)];
    v.step = stride == 0 ? 0 : 1;
    if (s.type == Element::f32 && stride <= 1 && stride >= 0) {
      v.at = reinterpret_cast<const float*>(at);
    } else {
      load(t_, s, at, stride, stride == 0 ? 1 : n, slot(i));
      v.at = slot(i);
    }
  }

  void operation(int32_t k, int64_t at, int64_t n) {
    const Operation& op = e_.operations[static_cast<size_t>(k)];
    const int32_t id = e_.inputs + k;
    Value x[3] = {{nullptr, 0}, {nullptr, 0}, {nullptr, 0}};
    ptrdiff_t step = 0;
    for (int i = 0; i < 3; ++i)
      if (op.args[i] >= 0) {
        x[i] = values_[static_cast<size_t>(op.args[i])];
        step |= x[i].step;
      }
    const int out = direct_[static_cast<size_t>(id)];
    float* y = step && out >= 0 ? static_cast<float*>(outputs_[out].data) + at : slot(id);
    const ptrdiff_t count = step ? static_cast<ptrdiff_t>(n) : 1;
    switch (op.kind) {
      case Operation::unary:
        t_.unary({static_cast<Unary>(op.code), x[0].at, y, count, op.p});
        break;
      case Operation::binary:
        t_.arith({static_cast<Binary>(op.code), x[0].at, x[1].at, x[0].step, x[1].step, y, count});
        break;
      case Operation::select:
        t_.select({x[0].at, x[1].at, x[2].at, x[0].step, x[1].step, x[2].step, y, count});
        break;
      case Operation::rare:
        rare(static_cast<Rare>(op.code), x[0], x[1], y, count);
        break;
    }
    values_[static_cast<size_t>(id)] = {y, step};
  }

  void sink(size_t o, int64_t at, int64_t n) {
    Value v = values_[static_cast<size_t>(e_.outputs[o])];
    const Sink& s = outputs_[o];
    if (s.type == Element::f32) {
      float* y = static_cast<float*>(s.data) + at;
      if (v.at == y) return;
      if (v.step)
        t_.unary({Unary::copy, v.at, y, static_cast<ptrdiff_t>(n), nullptr});
      else
        for (int64_t i = 0; i < n; ++i) y[i] = v.at[0];
    } else if (s.type == Element::u8) {
      uint8_t* y = static_cast<uint8_t*>(s.data) + at;
      t_.quantize(
          {v.at, y, static_cast<ptrdiff_t>(v.step ? n : 1), 1.0f / s.spec.scale, s.spec.zero_point, s.spec.lo, s.spec.hi, 1});
      for (int64_t i = 1; !v.step && i < n; ++i) y[i] = y[0];
    } else {
      uint8_t* y = static_cast<uint8_t*>(s.data) + at;
      for (int64_t i = 0; i < n; ++i) y[i] = v.at[i * v.step] != 0.0f;
    }
  }

  const KernelTable& t_;
  const Expression& e_;
  const Space& space_;
  const Sink* outputs_;
  int32_t count_;
  float* blocks_;
  std::vector<Value> values_;
  std::vector<int> direct_;  // the fp32 output that a value is computed into
};

}  // namespace

void Expression::check() const {
  auto fail = [](const std::string& what) { throw Error(Code::shape, "expression: " + what); };
  if (inputs < 0) fail("a negative number of inputs");
  for (size_t k = 0; k < operations.size(); ++k) {
    const Operation& op = operations[k];
    const int32_t before = inputs + static_cast<int32_t>(k);
    const bool two = op.kind == Operation::binary || (op.kind == Operation::rare && op.code >= static_cast<int32_t>(Rare::pow));
    const int takes = op.kind == Operation::select ? 3 : two ? 2 : 1;
    const int32_t codes = op.kind == Operation::unary    ? static_cast<int32_t>(Unary::round_to_grid)
                          : op.kind == Operation::binary ? static_cast<int32_t>(Binary::logical_xor)
                          : op.kind == Operation::rare   ? static_cast<int32_t>(Rare::mod)
                                                         : 0;
    if (op.kind < Operation::unary || op.kind > Operation::rare || op.code < 0 || op.code > codes)
      fail("operation " + std::to_string(k) + " has the unknown code " + std::to_string(op.code));
    for (int i = 0; i < 3; ++i)
      if (i < takes ? op.args[i] < 0 || op.args[i] >= before : op.args[i] != -1)
        fail("operation " + std::to_string(k) + " reads value " + std::to_string(op.args[i]) + ", which it cannot");
  }
  for (int32_t o : outputs)
    if (o < 0 || o >= inputs + static_cast<int32_t>(operations.size())) fail("output " + std::to_string(o) + " is no value");
}

void evaluate(const Expression& e, int dims, const int64_t* shape, const Source* inputs, const Sink* outputs) {
  int64_t total = 1;
  for (int d = 0; d < dims; ++d) total *= shape[d];
  if (total == 0) return;
  const Space space(dims, shape, inputs, e.inputs);
  const int64_t length = space.shape[space.dims - 1], blocks = (length + kBlock - 1) / kBlock;
  const int64_t work = total * static_cast<int64_t>(e.operations.size() + e.outputs.size());
  parallel_shares(total / length * blocks, threads_for(work, kGrain), [&](int64_t begin, int64_t end) {
    Evaluator evaluator(e, space, outputs);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i % blocks * kBlock;
      evaluator.block(i / blocks, first, length - first < kBlock ? length - first : kBlock);
    }
  });
}

}  // namespace qgemm
