// Elementwise expressions: broadcasting, types, every path and thread count, against plain loops.
#include "ops/expression.h"

#include <cmath>

#include "driver_case.h"

namespace qgemm {
namespace test {
namespace {

Operation unary_op(Unary code, int32_t x) { return {Operation::unary, static_cast<int32_t>(code), {x, -1, -1}, {}}; }
Operation binary_op(Binary code, int32_t a, int32_t b) { return {Operation::binary, static_cast<int32_t>(code), {a, b, -1}, {}}; }

// y = select(less(a, b), relu(a) * b, a + b) for a u8 `a` and a broadcast fp32 `b`, to fp32 or bytes.
TEST(Expressions, BroadcastsAndSelects) {
  Rng rng(700);
  Guarded a_memory(1 << 18), b_memory(1 << 20);
  Output got(1 << 20);
  Expression e;
  e.inputs = 2;
  e.operations = {binary_op(Binary::less, 0, 1),
                  unary_op(Unary::relu, 0),
                  binary_op(Binary::mul, 3, 1),
                  binary_op(Binary::add, 0, 1),
                  {Operation::select, 0, {2, 4, 5}, {}}};
  e.outputs = {6};
  e.check();
  for (int i = 0; i < cases(300); ++i) {
    const bool large = i % 20 == 0;
    const int64_t shape[3] = {rng.between(large ? 3 : 0, 4), rng.between(1, 5),
                              rng.pick<int64_t>({1, 7, 64, large ? 3000 : 600})};
    const int64_t n = shape[0] * shape[1] * shape[2];
    const bool shared[3] = {rng.chance(50), rng.chance(50), rng.chance(30)};
    Source a{nullptr, Element::u8, {0.03f, 120}, {shape[1] * shape[2], shape[2], 1}}, b{nullptr, Element::f32, {1, 0}, {}};
    int64_t count = 1;
    for (int d = 2; d >= 0; --d) {
      b.strides[d] = shared[d] ? 0 : count;
      if (!shared[d]) count *= shape[d];
    }
    uint8_t* x = a_memory.place<uint8_t>(static_cast<size_t>(n), Side::end);
    float* y = b_memory.place<float>(static_cast<size_t>(count), Side::end);
    fill(rng, Mood::uniform, x, n);
    for (int64_t j = 0; j < count; ++j) y[j] = rng.uniform(-4, 4);
    a.data = x;
    b.data = y;
    OutputSpec out = any_output(rng, 10, false);
    if (out.type == OutType::s8) out.type = OutType::u8;
    out.f_lo = -INFINITY;
    out.f_hi = INFINITY;
    const int64_t size = out.type == OutType::f32 ? 4 : 1;
    std::vector<uint8_t> want(static_cast<size_t>(n * size));
    for (int64_t j = 0; j < n; ++j) {
      const float p = static_cast<float>(x[j] - 120) * 0.03f;
      const float q =
          y[j / shape[2] / shape[1] * b.strides[0] + j / shape[2] % shape[1] * b.strides[1] + j % shape[2] * b.strides[2]];
      store_float(out, p < q ? (p < 0 ? 0 : p) * q : p + q, &want[static_cast<size_t>(j * size)]);
    }
    now_testing("expression %d x %d x %d shared %d %d %d", int(shape[0]), int(shape[1]), int(shape[2]), shared[0], shared[1],
                shared[2]);
    const Source inputs[2] = {a, b};
    if (!same_everywhere(got, want, 1, n * size, n * size, Side::end, [&](void* c) {
          const Sink sink{c, size == 4 ? Element::f32 : Element::u8, out};
          evaluate(e, 3, shape, inputs, &sink);
        }))
      return;
  }
}

TEST(Expressions, WhatMeansNothingIsRefused) {
  Expression e;
  e.inputs = 1;
  e.operations = {binary_op(Binary::add, 0, 1)};  // value 1 is the operation's own result
  e.outputs = {1};
  EXPECT_ANY_THROW(e.check());
  e.operations = {unary_op(static_cast<Unary>(99), 0)};
  EXPECT_ANY_THROW(e.check());
  e.operations = {unary_op(Unary::exp, 0)};
  EXPECT_NO_THROW(e.check());
  e.outputs = {2};
  EXPECT_ANY_THROW(e.check());
}

}  // namespace
}  // namespace test
}  // namespace qgemm
