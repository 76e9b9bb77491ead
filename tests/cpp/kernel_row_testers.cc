// Testers of the kernels that work on rows of real numbers: softmax, the normalizations, elementwise fp32.
#include <cmath>

#include "kernel_testers.h"

namespace qgemm {
namespace test {
namespace {

constexpr int64_t kMaxLength = 300, kMaxRows = 3;

int64_t any_length(Rng& rng) {
  return rng.pick<int64_t>({1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, rng.between(1, kMaxLength)});
}

Epilogue any_epilogue(Rng& rng, float size) {
  Epilogue e{};
  e.out = rng.pick({OutType::u8, OutType::u8, OutType::s8, OutType::f32});
  e.inv_scale = rng.pick({255.0f / size, rng.uniform(10, 400) / size, 1e10f});
  e.zero_point = static_cast<int32_t>(rng.pick<int64_t>({0, 128, 255, rng.between(0, 255)}));
  e.lo = rng.chance(60) ? 0 : e.zero_point;
  e.hi = rng.chance(70) ? 255 : static_cast<int32_t>(rng.between(e.lo, 255));
  return e;
}

float any_real(Rng& rng, float size) {
  if (rng.chance(97)) return rng.uniform(-size, size);
  return rng.pick({0.0f, -0.0f, 1e-40f, 1e30f, -1e30f});
}

// Rows of u8 or fp32 in guarded memory, some of them constant.
struct Rows {
  Guarded memory{4 * kMaxLength * kMaxRows};
  const void* data;
  int64_t rows, n;
  bool is_u8;

  void make(Rng& rng, Side side) {
    rows = rng.between(1, kMaxRows);
    n = any_length(rng);
    is_u8 = rng.chance(60);
    const bool constant = rng.chance(5);
    if (is_u8) {
      uint8_t* x = memory.place<uint8_t>(static_cast<size_t>(rows * n), side);
      fill(rng, any_mood(rng), x, rows * n);
      if (constant) std::memset(x, static_cast<int>(rng.between(0, 255)), static_cast<size_t>(rows * n));
      data = x;
    } else {
      float* x = memory.place<float>(static_cast<size_t>(rows * n), side);
      const float size = rng.pick({1.0f, 20.0f, 200.0f}), shift = rng.pick({0.0f, 100.0f});
      for (int64_t i = 0; i < rows * n; ++i) x[i] = (constant ? 0.3f : any_real(rng, size)) + shift;
      if (rng.chance(10)) x[rng.between(0, rows * n - 1)] = rng.pick({static_cast<float>(NAN), INFINITY, -INFINITY});
      data = x;
    }
  }
};

}  // namespace

void test_softmax(const KernelRow& row) {
  Rng rng(41);
  Rows x;
  Guarded mask_memory(4 * kMaxLength * kMaxRows), scratch_memory(8192);
  Output got(8192), want(8192);
  for (int i = 0; i < cases(8000); ++i) {
    const Side side = rng.chance(50) ? Side::start : Side::end;
    x.make(rng, side);
    softmax_args g{};
    g.x = x.data;
    g.ldx = x.n * (x.is_u8 ? 1 : 4);
    g.is_u8 = x.is_u8;
    g.x_scale = rng.pick({0.5f, 0.03f, rng.uniform(1e-3f, 1), 1.1920929e-7f});
    g.x_zero_point = static_cast<int32_t>(rng.pick<int64_t>({0, 128, 255, rng.between(0, 255)}));
    g.rows = x.rows;
    g.n = x.n;
    if (rng.chance(40)) {
      float* mask = mask_memory.place<float>(static_cast<size_t>(x.rows * x.n), side);
      for (int64_t j = 0; j < x.rows * x.n; ++j)
        mask[j] = rng.chance(30) ? rng.pick({-INFINITY, -3.4028235e38f, -1e4f}) : rng.chance(50) ? 0.0f : rng.uniform(-3, 3);
      if (rng.chance(10))
        for (int64_t j = 0; j < x.n; ++j) mask[j] = -INFINITY;
      g.mask = mask;
      g.ldmask = rng.chance(50) ? x.n : 0;
    }
    const Epilogue e = any_epilogue(rng, 1);
    g.ep = &e;
    g.scratch = scratch_memory.place<float>(static_cast<size_t>((x.n + 63) / 64 * 128), Side::end);
    const int64_t bytes = x.n * element_size(e.out), ldo = bytes + 4 * rng.between(0, 2);
    g.ldo = ldo;
    now_testing("%s rows=%d n=%d u8=%d mask=%d scale=%g zp=%d out=%d inv=%g zp=%d [%d,%d]", row.name, static_cast<int>(g.rows),
                static_cast<int>(g.n), g.is_u8, g.mask != nullptr, g.x_scale, g.x_zero_point, static_cast<int>(e.out),
                e.inv_scale, e.zero_point, e.lo, e.hi);
    g.out = want.place(g.rows, bytes, ldo, side);
    table_of(Isa::ref).softmax(g);
    g.out = got.place(g.rows, bytes, ldo, side);
    kernel<softmax_args>(row)(g);
    if (!same_output(got, want, g.rows, bytes)) return;
  }
}

void test_norm(const KernelRow& row) {
  Rng rng(42);
  Rows x;
  Guarded gamma_memory(4 * kMaxLength), beta_memory(4 * kMaxLength);
  Output got(8192), want(8192);
  for (int i = 0; i < cases(8000); ++i) {
    const Side side = rng.chance(50) ? Side::start : Side::end;
    x.make(rng, side);
    norm_args g{};
    g.x = x.data;
    g.ldx = x.n * (x.is_u8 ? 1 : 4);
    g.is_u8 = x.is_u8;
    g.center = rng.chance(60);
    g.x_scale = rng.pick({0.5f, rng.uniform(1e-3f, 1), 1.1920929e-7f});
    g.x_zero_point = static_cast<int32_t>(rng.pick<int64_t>({0, 128, 255, rng.between(0, 255)}));
    g.rows = x.rows;
    g.n = x.n;
    g.epsilon = rng.pick({1e-5, 1e-12, 0.0});
    float *gamma = gamma_memory.place<float>(static_cast<size_t>(x.n), side),
          *beta = beta_memory.place<float>(static_cast<size_t>(x.n), side);
    for (int64_t j = 0; j < x.n; ++j) {
      gamma[j] = rng.uniform(-2, 2);
      beta[j] = rng.uniform(-1, 1);
    }
    g.gamma = gamma;
    g.beta = beta;
    const Epilogue e = any_epilogue(rng, 6);
    g.ep = &e;
    const int64_t bytes = x.n * element_size(e.out), ldo = bytes + 4 * rng.between(0, 2);
    g.ldo = ldo;
    now_testing("%s rows=%d n=%d u8=%d center=%d scale=%g zp=%d eps=%g out=%d inv=%g zp=%d [%d,%d]", row.name,
                static_cast<int>(g.rows), static_cast<int>(g.n), g.is_u8, g.center, g.x_scale, g.x_zero_point, g.epsilon,
                static_cast<int>(e.out), e.inv_scale, e.zero_point, e.lo, e.hi);
    g.out = want.place(g.rows, bytes, ldo, side);
    table_of(Isa::ref).norm(g);
    g.out = got.place(g.rows, bytes, ldo, side);
    kernel<norm_args>(row)(g);
    if (!same_output(got, want, g.rows, bytes)) return;
  }
}

void test_unary(const KernelRow& row) {
  Rng rng(43);
  Guarded x_memory(4 * kMaxLength);
  Output got(4096), want(4096);
  for (int i = 0; i < cases(8000); ++i) {
    const Side side = rng.chance(50) ? Side::start : Side::end;
    const int64_t n = any_length(rng), bytes = 4 * n;
    const float size = rng.pick({1.0f, 5.0f, 120.0f, 1e-3f});
    float* x = x_memory.place<float>(static_cast<size_t>(n), side);
    for (int64_t j = 0; j < n; ++j) {
      x[j] = any_real(rng, size);
      if (rng.chance(3)) x[j] = rng.pick({static_cast<float>(NAN), -static_cast<float>(NAN), INFINITY, -INFINITY});
    }
    const float p[4] = {rng.uniform(0.1f, 10), -static_cast<float>(rng.between(0, 200)), static_cast<float>(rng.between(0, 200)),
                        0.3f};
    unary_args g{static_cast<Unary>(rng.between(0, static_cast<int64_t>(Unary::round_to_grid))), x, nullptr, n, p};
    now_testing("%s op=%d n=%d", row.name, static_cast<int>(g.op), static_cast<int>(n));
    g.y = reinterpret_cast<float*>(want.place(1, bytes, bytes, side));
    table_of(Isa::ref).unary(g);
    g.y = reinterpret_cast<float*>(got.place(1, bytes, bytes, side));
    if (rng.chance(30)) {  // in place
      std::memcpy(g.y, x, static_cast<size_t>(bytes));
      g.x = g.y;
    }
    kernel<unary_args>(row)(g);
    if (!same_output(got, want, 1, bytes)) return;
  }
}

void test_arith(const KernelRow& row) {
  Rng rng(44);
  Guarded a_memory(4 * kMaxLength), b_memory(4 * kMaxLength);
  Output got(4096), want(4096);
  for (int i = 0; i < cases(8000); ++i) {
    const Side side = rng.chance(50) ? Side::start : Side::end;
    const int64_t n = any_length(rng), bytes = 4 * n;
    arith_args g{};
    g.op = static_cast<Binary>(rng.between(0, static_cast<int64_t>(Binary::logical_xor)));
    g.n = n;
    g.a_step = rng.chance(70);
    g.b_step = rng.chance(70);
    const int64_t na = g.a_step ? n : 1, nb = g.b_step ? n : 1;
    float *a = a_memory.place<float>(static_cast<size_t>(na), side), *b = b_memory.place<float>(static_cast<size_t>(nb), side);
    auto value = [&] {
      return rng.chance(20)  ? rng.pick({0.0f, 1.0f, -1.0f})
             : rng.chance(3) ? rng.pick({static_cast<float>(NAN), -static_cast<float>(NAN), INFINITY, -INFINITY})
                             : any_real(rng, 5);
    };
    for (int64_t j = 0; j < na; ++j) a[j] = value();
    for (int64_t j = 0; j < nb; ++j) b[j] = value();
    now_testing("%s op=%d n=%d steps %d %d", row.name, static_cast<int>(g.op), static_cast<int>(n), static_cast<int>(g.a_step),
                static_cast<int>(g.b_step));
    g.a = a;
    g.b = b;
    g.y = reinterpret_cast<float*>(want.place(1, bytes, bytes, side));
    table_of(Isa::ref).arith(g);
    g.y = reinterpret_cast<float*>(got.place(1, bytes, bytes, side));
    if (g.a_step && rng.chance(30)) {
      std::memcpy(g.y, a, static_cast<size_t>(bytes));
      g.a = g.y;
    }
    kernel<arith_args>(row)(g);
    if (!same_output(got, want, 1, bytes)) return;
  }
}

void test_select(const KernelRow& row) {
  Rng rng(45);
  Guarded c_memory(4 * kMaxLength), a_memory(4 * kMaxLength), b_memory(4 * kMaxLength);
  Output got(4096), want(4096);
  for (int i = 0; i < cases(4000); ++i) {
    const Side side = rng.chance(50) ? Side::start : Side::end;
    const int64_t n = any_length(rng), bytes = 4 * n;
    select_args g{};
    g.n = n;
    g.c_step = rng.chance(80);
    g.a_step = rng.chance(70);
    g.b_step = rng.chance(70);
    float* c = c_memory.place<float>(static_cast<size_t>(g.c_step ? n : 1), side);
    float* a = a_memory.place<float>(static_cast<size_t>(g.a_step ? n : 1), side);
    float* b = b_memory.place<float>(static_cast<size_t>(g.b_step ? n : 1), side);
    for (int64_t j = 0; j < (g.c_step ? n : 1); ++j) c[j] = rng.pick({0.0f, 1.0f, -0.0f, static_cast<float>(NAN)});
    for (int64_t j = 0; j < (g.a_step ? n : 1); ++j) a[j] = any_real(rng, 5);
    for (int64_t j = 0; j < (g.b_step ? n : 1); ++j) b[j] = rng.chance(5) ? -static_cast<float>(NAN) : any_real(rng, 5);
    now_testing("%s n=%d", row.name, static_cast<int>(n));
    g.c = c;
    g.a = a;
    g.b = b;
    g.y = reinterpret_cast<float*>(want.place(1, bytes, bytes, side));
    table_of(Isa::ref).select(g);
    g.y = reinterpret_cast<float*>(got.place(1, bytes, bytes, side));
    kernel<select_args>(row)(g);
    if (!same_output(got, want, 1, bytes)) return;
  }
}

}  // namespace test
}  // namespace qgemm
