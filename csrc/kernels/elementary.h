// The elementary functions of fp32, written once over a vector type V of each ISA (one file of kernels/vector__*.h), so that
// every path makes the same operations in the same order. V is a type of the ISA's own namespace and every function is inlined:
// translation units of different ISAs share no symbol.
#pragma once
#include "kernels/api.h"
#include "kernels/coefficients.h"

namespace qgemm {
namespace elementary {

#define QGEMM_ELEMENTARY \
  template <class V>     \
  static inline __attribute__((always_inline)) V

QGEMM_ELEMENTARY exp(V x) {
  const V clamped = blend(lt(V::set(89.0f), x), V::set(89.0f), blend(lt(x, V::set(-104.0f)), V::set(-104.0f), x));
  const V n = round(clamped * V::constant(kLog2E));
  const V r = fnma(n, V::constant(kLn2Lo), fnma(n, V::constant(kLn2Hi), clamped));
  V q = fma(V::constant(kExp6), r, V::constant(kExp5));
  q = fma(q, r, V::constant(kExp4));
  q = fma(q, r, V::constant(kExp3));
  q = fma(q, r, V::constant(kExp2));
  return scale2(V::set(1.0f) + fma(r * r, q, r), n);
}

// 1 / (1 + z) or z / (1 + z) with z = exp(-|x|), which cannot overflow.
QGEMM_ELEMENTARY sigmoid(V x) {
  const V z = exp(V::set(0.0f) - abs(x));
  return blend(lt(x, V::set(0.0f)), z, V::set(1.0f)) / (V::set(1.0f) + z);
}

QGEMM_ELEMENTARY tanh(V x) {
  const V a = abs(x), s = x * x;
  V p = fma(V::constant(kTanh[5]), s, V::constant(kTanh[4]));
  for (int i = 3; i >= 0; --i) p = fma(p, s, V::constant(kTanh[i]));
  const V small = fma(x * s, p, x);
  const V large = V::set(1.0f) - V::set(2.0f) / (exp(a + a) + V::set(1.0f));
  return blend(lt(a, V::constant(kTanhSmall)), small, sign_of(large, x));
}

QGEMM_ELEMENTARY erf(V x) {
  const V a = abs(x), s = x * x;
  V p = fma(V::constant(kErfSmall[6]), s, V::constant(kErfSmall[5]));
  for (int i = 4; i >= 0; --i) p = fma(p, s, V::constant(kErfSmall[i]));
  const V small = fma(x, p, x);
  V q = fma(V::constant(kErfLarge[7]), a, V::constant(kErfLarge[6]));
  for (int i = 5; i >= 0; --i) q = fma(q, a, V::constant(kErfLarge[i]));
  V large = V::set(1.0f) - exp(V::set(0.0f) - q);
  large = blend(lt(a, V::constant(kErfOne)), large, V::set(1.0f));
  large = blend(unordered(x, x), x, sign_of(large, x));
  return blend(lt(a, V::set(1.0f)), small, large);
}

QGEMM_ELEMENTARY clamp01(V x) {
  const V low = blend(lt(x, V::set(0.0f)), V::set(0.0f), x);
  return blend(lt(V::set(6.0f), low), V::set(6.0f), low);
}

// One NaN of all.
QGEMM_ELEMENTARY canonical(V x) { return blend(unordered(x, x), V::set(__builtin_nanf("")), x); }

template <Unary op, class V>
static inline __attribute__((always_inline)) V unary(V x, const float* p) {
  const V zero = V::set(0.0f), one = V::set(1.0f);
  switch (op) {
    case Unary::copy:
      return x;
    case Unary::neg:
      return negate(x);
    case Unary::abs:
      return abs(x);
    case Unary::sqrt:
      return sqrt(x);
    case Unary::reciprocal:
      return one / x;
    case Unary::floor:
      return floor(x);
    case Unary::ceil:
      return ceil(x);
    case Unary::round:
      return round(x);
    case Unary::sign:
      return blend(lt(zero, x), one, blend(lt(x, zero), V::set(-1.0f), x));
    case Unary::relu:
      return blend(lt(x, zero), zero, x);
    case Unary::exp:
      return exp(x);
    case Unary::sigmoid:
      return sigmoid(x);
    case Unary::tanh:
      return tanh(x);
    case Unary::erf:
      return erf(x);
    case Unary::gelu:  // torch's order of operations
      return x * V::set(0.5f) * (one + erf(x * V::set(0.70710678f)));
    case Unary::silu:
      return x * sigmoid(x);
    case Unary::hard_sigmoid:
      return clamp01(x + V::set(3.0f)) / V::set(6.0f);
    case Unary::hard_swish:
      return x * clamp01(x + V::set(3.0f)) / V::set(6.0f);
    case Unary::logical_not:
      return blend(equal(x, zero), one, zero);
    case Unary::is_nan:
      return blend(unordered(x, x), one, zero);
    case Unary::round_to_grid: {
      V q = round(x * V::set(p[0]));
      q = blend(unordered(q, q), zero, q);
      q = blend(lt(q, V::set(p[1])), V::set(p[1]), q);
      q = blend(lt(V::set(p[2]), q), V::set(p[2]), q);
      return (q + zero) * V::set(p[3]);  // an integer has no negative zero
    }
  }
  return x;
}

template <Binary op, class V>
static inline __attribute__((always_inline)) V binary(V a, V b) {
  const V zero = V::set(0.0f), one = V::set(1.0f);
  switch (op) {
    case Binary::add:
      return a + b;
    case Binary::sub:
      return a - b;
    case Binary::mul:
      return a * b;
    case Binary::div:
      return a / b;
    case Binary::min:
      return blend(unordered(a, b), a + b, blend(lt(a, b), a, b));
    case Binary::max:
      return blend(unordered(a, b), a + b, blend(lt(b, a), a, b));
    case Binary::prelu:
      return blend(lt(a, zero), a * b, a);
    case Binary::less:
      return blend(lt(a, b), one, zero);
    case Binary::less_equal:
      return blend(lt(a, b), one, blend(equal(a, b), one, zero));
    case Binary::equal:
      return blend(equal(a, b), one, zero);
    case Binary::logical_and:
      return blend(equal(a, zero), zero, blend(equal(b, zero), zero, one));
    case Binary::logical_or:
      return blend(equal(a, zero), blend(equal(b, zero), zero, one), one);
    case Binary::logical_xor:
      return blend(equal(a, zero), blend(equal(b, zero), zero, one), blend(equal(b, zero), one, zero));
  }
  return a;
}

// Loops over elements. V loads and stores `count` (1..V::width) of them.
template <Unary op, class V>
static inline __attribute__((always_inline)) void unary_loop(const unary_args& g) {
  ptrdiff_t i = 0;
  for (; i + V::width <= g.n; i += V::width) store(g.y + i, canonical(unary<op>(V::load(g.x + i), g.p)));
  if (i < g.n) store(g.y + i, canonical(unary<op>(V::load(g.x + i, static_cast<int>(g.n - i)), g.p)), static_cast<int>(g.n - i));
}

template <Binary op, class V>
static inline __attribute__((always_inline)) void binary_loop(const arith_args& g) {
  const V a1 = V::set(g.n > 0 ? g.a[0] : 0.0f), b1 = V::set(g.n > 0 ? g.b[0] : 0.0f);
  ptrdiff_t i = 0;
  for (; i + V::width <= g.n; i += V::width)
    store(g.y + i, canonical(binary<op>(g.a_step ? V::load(g.a + i) : a1, g.b_step ? V::load(g.b + i) : b1)));
  if (i < g.n) {
    const int left = static_cast<int>(g.n - i);
    store(g.y + i, canonical(binary<op>(g.a_step ? V::load(g.a + i, left) : a1, g.b_step ? V::load(g.b + i, left) : b1)), left);
  }
}

template <class V>
static inline __attribute__((always_inline)) void select_loop(const select_args& g) {
  const V c1 = V::set(g.n > 0 ? g.c[0] : 0.0f), a1 = V::set(g.n > 0 ? g.a[0] : 0.0f), b1 = V::set(g.n > 0 ? g.b[0] : 0.0f);
  for (ptrdiff_t i = 0; i < g.n; i += V::width) {
    const int left = g.n - i < V::width ? static_cast<int>(g.n - i) : V::width;
    const V c = g.c_step ? V::load(g.c + i, left) : c1, a = g.a_step ? V::load(g.a + i, left) : a1,
            b = g.b_step ? V::load(g.b + i, left) : b1;
    store(g.y + i, canonical(blend(equal(c, V::set(0.0f)), b, a)), left);
  }
}

#define QGEMM_UNARY(name)          \
  case Unary::name:                \
    unary_loop<Unary::name, V>(g); \
    break;
#define QGEMM_BINARY(name)           \
  case Binary::name:                 \
    binary_loop<Binary::name, V>(g); \
    break;

template <class V>
static inline __attribute__((always_inline)) void run(const unary_args& g) {
  switch (g.op) {
    QGEMM_UNARY(copy)
    QGEMM_UNARY(neg)
    QGEMM_UNARY(abs)
    QGEMM_UNARY(sqrt)
    QGEMM_UNARY(reciprocal)
    QGEMM_UNARY(floor)
    QGEMM_UNARY(ceil)
    QGEMM_UNARY(round)
    QGEMM_UNARY(sign)
    QGEMM_UNARY(relu)
    QGEMM_UNARY(exp)
    QGEMM_UNARY(sigmoid)
    QGEMM_UNARY(tanh)
    QGEMM_UNARY(erf)
    QGEMM_UNARY(gelu)
    QGEMM_UNARY(silu)
    QGEMM_UNARY(hard_sigmoid)
    QGEMM_UNARY(hard_swish)
    QGEMM_UNARY(logical_not)
    QGEMM_UNARY(is_nan)
    QGEMM_UNARY(round_to_grid)
  }
}

template <class V>
static inline __attribute__((always_inline)) void run(const arith_args& g) {
  switch (g.op) {
    QGEMM_BINARY(add)
    QGEMM_BINARY(sub)
    QGEMM_BINARY(mul)
    QGEMM_BINARY(div)
    QGEMM_BINARY(min)
    QGEMM_BINARY(max)
    QGEMM_BINARY(prelu)
    QGEMM_BINARY(less)
    QGEMM_BINARY(less_equal)
    QGEMM_BINARY(equal)
    QGEMM_BINARY(logical_and)
    QGEMM_BINARY(logical_or)
    QGEMM_BINARY(logical_xor)
  }
}

#undef QGEMM_UNARY
#undef QGEMM_BINARY
#undef QGEMM_ELEMENTARY

}  // namespace elementary
}  // namespace qgemm
