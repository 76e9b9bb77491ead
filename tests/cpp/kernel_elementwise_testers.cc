// Testers of the elementwise kernels: quantize, dequantize, ranges, addition, tables.
#include <algorithm>
#include <cmath>

#include "kernel_testers.h"

namespace qgemm {
namespace test {
namespace {

constexpr int64_t kMaxLength = 300;

int64_t any_length(Rng& rng) {
  return rng.pick<int64_t>({0, 1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, rng.between(0, kMaxLength)});
}

// A grid of 8 or 16 bits, signed or not, at times narrower (a bound carries a ReLU).
struct Grid {
  int bytes;
  bool is_signed;
  int32_t qmin, qmax, zero_point;
};

Grid any_grid(Rng& rng) {
  Grid g{};
  g.bytes = rng.chance(60) ? 1 : 2;
  g.is_signed = rng.chance(40);
  const int32_t span = g.bytes == 1 ? 256 : 65536;
  g.qmin = g.is_signed ? -span / 2 : 0;
  g.qmax = g.qmin + span - 1;
  g.zero_point =
      rng.pick<int32_t>({g.qmin, g.qmax, 0, (g.qmin + g.qmax + 1) / 2, static_cast<int32_t>(rng.between(g.qmin, g.qmax))});
  if (rng.chance(20)) g.qmin = g.zero_point;
  if (rng.chance(10)) g.qmax = static_cast<int32_t>(rng.between(g.zero_point, g.qmax));
  return g;
}

float any_float(Rng& rng, float step) {
  switch (rng.between(0, 11)) {
    case 0:
      return step * (static_cast<float>(rng.between(-300, 300)) + 0.5f);  // near a tie
    case 1:
      return rng.pick({0.0f, -0.0f, 1e-45f, -1e-45f, 1.17549435e-38f});
    case 2:
      return rng.pick({3.4e38f, -3.4e38f, 2.2e9f, -2.2e9f, 1e20f});
    default:
      return rng.uniform(-400, 400) * step;
  }
}

}  // namespace

void test_quantize(const KernelRow& row) {
  Rng rng(21);
  Guarded x_memory(4 * kMaxLength);
  Output got(4096), want(4096);
  for (int i = 0; i < cases(10000); ++i) {
    const Side side = rng.chance(50) ? Side::start : Side::end;
    const int64_t n = any_length(rng);
    const Grid grid = any_grid(rng);
    const float scale = rng.pick({1.0f, 0.5f, 0.0173f, 1.1920929e-7f, 3e4f});
    float* x = x_memory.place<float>(static_cast<size_t>(n), side);
    for (int64_t j = 0; j < n; ++j) {
      x[j] = any_float(rng, scale);
      if (rng.chance(3)) x[j] = rng.pick({static_cast<float>(NAN), static_cast<float>(INFINITY), -static_cast<float>(INFINITY)});
    }
    now_testing("%s n=%d bytes=%d zp=%d [%d,%d] scale=%g", row.name, static_cast<int>(n), grid.bytes, grid.zero_point, grid.qmin,
                grid.qmax, scale);
    const int64_t bytes = n * grid.bytes;
    quantize_args g{x, want.place(1, bytes, bytes, side), n, 1.0f / scale, grid.zero_point, grid.qmin, grid.qmax, grid.bytes};
    table_of(Isa::ref).quantize(g);
    g.q = got.place(1, bytes, bytes, side);
    kernel<quantize_args>(row)(g);
    if (!same_output(got, want, 1, bytes)) return;
  }
}

void test_dequantize(const KernelRow& row) {
  Rng rng(22);
  Guarded q_memory(2 * kMaxLength);
  Output got(4096), want(4096);
  for (int i = 0; i < cases(5000); ++i) {
    const Side side = rng.chance(50) ? Side::start : Side::end;
    const int64_t n = any_length(rng), bytes = 4 * n;
    const Grid grid = any_grid(rng);
    uint8_t* q = q_memory.place<uint8_t>(static_cast<size_t>(n * grid.bytes), side);
    fill(rng, any_mood(rng), q, n * grid.bytes);
    now_testing("%s n=%d bytes=%d signed=%d zp=%d", row.name, static_cast<int>(n), grid.bytes, grid.is_signed, grid.zero_point);
    dequantize_args g{q,
                      reinterpret_cast<float*>(want.place(1, bytes, bytes, side)),
                      n,
                      rng.pick({1.0f, 0.0173f, 1.1920929e-7f}),
                      grid.zero_point,
                      grid.bytes,
                      grid.is_signed};
    table_of(Isa::ref).dequantize(g);
    g.x = reinterpret_cast<float*>(got.place(1, bytes, bytes, side));
    kernel<dequantize_args>(row)(g);
    if (!same_output(got, want, 1, bytes)) return;
  }
}

void test_minmax(const KernelRow& row) {
  Rng rng(23);
  Guarded memory(4 * kMaxLength);
  for (int i = 0; i < cases(6000); ++i) {
    const int64_t n = any_length(rng);
    float* x = memory.place<float>(static_cast<size_t>(n), rng.chance(50) ? Side::start : Side::end);
    const int mood = static_cast<int>(rng.between(0, 3));
    for (int64_t j = 0; j < n; ++j) {
      x[j] = any_float(rng, 0.1f);
      if (mood == 0) x[j] = std::fabs(x[j]);
      if (mood == 1) x[j] = -std::fabs(x[j]);
    }
    if (n > 0 && rng.chance(20))
      x[rng.between(0, n - 1)] = rng.pick({static_cast<float>(NAN), static_cast<float>(INFINITY), -static_cast<float>(INFINITY)});
    now_testing("%s n=%d", row.name, static_cast<int>(n));
    float lo[2], hi[2];
    bool finite[2];
    const minmax_args want{x, n, &lo[0], &hi[0], &finite[0]}, got{x, n, &lo[1], &hi[1], &finite[1]};
    table_of(Isa::ref).minmax(want);
    kernel<minmax_args>(row)(got);
    ASSERT_EQ(finite[0], finite[1]) << current_case();
    ASSERT_EQ(lo[0], lo[1]) << current_case();
    ASSERT_EQ(hi[0], hi[1]) << current_case();
  }
}

void test_quantize_rows(const KernelRow& row) {
  Rng rng(29);
  constexpr int64_t kRows = 40;
  Guarded memory(4 * kRows * (kMaxLength + 8));
  Output got(kRows * (kMaxLength + 8)), want(kRows * (kMaxLength + 8));
  for (int i = 0; i < cases(4000); ++i) {
    const int64_t rows = rng.between(0, kRows), n = any_length(rng), ldx = n + rng.pick({0, 0, 1, 7}),
                  ldq = n + rng.pick({0, 0, 3});
    const size_t floats = rows > 0 ? static_cast<size_t>((rows - 1) * ldx + n) : 0;
    const Side side = rng.chance(50) ? Side::start : Side::end;
    float* x = memory.place<float>(floats, side);
    for (int64_t r = 0; r < rows; ++r) {
      const int mood = static_cast<int>(rng.between(0, 9));
      const float magnitude = rng.pick({1.0f, 1e-3f, 1e6f, 3e38f, 1e-39f});
      for (int64_t j = 0; j < n; ++j) {
        float v = mood == 3 ? magnitude * (rng.chance(50) ? 1.0f : -1.0f) : any_float(rng, 0.1f);
        if (mood == 0) v = std::fabs(v);
        if (mood == 1) v = -std::fabs(v);
        if (mood == 2) v = 0.0f;
        x[r * ldx + j] = v;
      }
    }
    if (rows > 0 && n > 0 && rng.chance(20))
      x[rng.between(0, rows - 1) * ldx + rng.between(0, n - 1)] =
          rng.pick({static_cast<float>(NAN), static_cast<float>(INFINITY), -static_cast<float>(INFINITY)});
    now_testing("%s rows=%d n=%d ldx=%d ldq=%d", row.name, static_cast<int>(rows), static_cast<int>(n), static_cast<int>(ldx),
                static_cast<int>(ldq));
    float scale[2][kRows];
    int32_t zero_point[2][kRows];
    ptrdiff_t bad[2] = {-2, -2};
    quantize_rows_args g{x, ldx, rows, n, nullptr, ldq, scale[0], zero_point[0], rng.chance(40), &bad[0]};
    g.q = static_cast<uint8_t*>(want.place(rows, n, ldq, side));
    table_of(Isa::ref).quantize_rows(g);
    g.q = static_cast<uint8_t*>(got.place(rows, n, ldq, side));
    g.scale = scale[1];
    g.zero_point = zero_point[1];
    g.bad = &bad[1];
    kernel<quantize_rows_args>(row)(g);
    ASSERT_EQ(bad[0], bad[1]) << current_case();
    const int64_t whole = bad[0] < 0 ? rows : bad[0];
    if (!same_output(got, want, bad[0] < 0 ? rows : 0, n)) return;
    for (int64_t r = 0; r < whole; ++r) {
      ASSERT_EQ(scale[0][r], scale[1][r]) << current_case() << " row " << r;
      ASSERT_EQ(zero_point[0][r], zero_point[1][r]) << current_case() << " row " << r;
    }
  }
}

namespace {

// Rows of two operands and an output, with distances of their own.
template <class Args>
void any_rows(Rng& rng, Guarded& a_memory, Guarded& b_memory, Side side, Args& g) {
  g.rows = rng.pick<int64_t>({0, 1, 1, 2, 5});
  g.n = any_length(rng);
  g.lda = g.n + rng.pick<int64_t>({0, 0, 1, 64});
  g.ldb = rng.chance(30) ? 0 : g.n + rng.pick<int64_t>({0, 0, 3, 64});  // 0: one row for all
  g.ldo = g.n + rng.pick<int64_t>({0, 0, 7, 64});
  const int64_t a_bytes = g.rows ? (g.rows - 1) * g.lda + g.n : 0, b_bytes = g.rows ? (g.rows - 1) * g.ldb + g.n : 0;
  uint8_t* a = a_memory.place<uint8_t>(static_cast<size_t>(a_bytes), side);
  uint8_t* b = b_memory.place<uint8_t>(static_cast<size_t>(b_bytes), side);
  fill(rng, any_mood(rng), a, a_bytes);
  fill(rng, any_mood(rng), b, b_bytes);
  g.a = a;
  g.b = b;
}

// Makes the output's memory that of a.
template <class Args>
void in_place(Args& g) {
  for (int64_t r = 0; r < g.rows && g.n > 0; ++r) std::memcpy(g.out + r * g.ldo, g.a + r * g.lda, static_cast<size_t>(g.n));
  g.a = g.out;
  g.lda = g.ldo;
}

// A grid on which one factor is exact, so that four products and one give the same bytes: scales that are powers of two, and a
// zero point that leaves ties their side.
void give_factors(Rng&, Guarded&, Side, add_args&) {}
void give_factors(Rng& rng, Guarded& memory, Side side, mul_args& g) {
  if (rng.chance(50)) return;
  g.a_scale = 0.5f;
  g.b_scale = 0.25f;
  g.inv_scale = rng.pick({1.0f, 0.0625f});
  g.zero_point &= ~1;
  float* factor = memory.place<float>(256, side);
  for (int b = 0; b < 256; ++b) factor[b] = 0.125f * g.inv_scale * static_cast<float>(b - g.b_zero_point);
  g.factor = factor;
}

// Rows as above; `select` names the operation in a kernel table.
template <class Args>
void test_binary(const KernelRow& row, uint64_t seed, KernelFn<Args> KernelTable::*select) {
  Rng rng(seed);
  Guarded a_memory(8 * kMaxLength), b_memory(8 * kMaxLength), factors(4 * 256);
  Output got(1 << 14), want(1 << 14);
  for (int i = 0; i < cases(12000); ++i) {
    const Side side = rng.chance(50) ? Side::start : Side::end;
    Args g{};
    any_rows(rng, a_memory, b_memory, side, g);
    g.a_scale = rng.pick({0.5f, rng.uniform(1e-3f, 1), 1.1920929e-7f});
    g.b_scale = rng.pick({0.25f, rng.uniform(1e-3f, 1)});
    g.inv_scale = rng.pick({1.0f, 1.0f / rng.uniform(1e-3f, 1), 1e10f});
    g.a_zero_point = static_cast<int32_t>(rng.pick<int64_t>({0, 128, 255, rng.between(0, 255)}));
    g.b_zero_point = static_cast<int32_t>(rng.pick<int64_t>({0, 128, 255, rng.between(0, 255)}));
    g.zero_point = static_cast<int32_t>(rng.pick<int64_t>({0, 128, 255, rng.between(0, 255)}));
    g.lo = rng.chance(50) ? 0 : g.zero_point;
    give_factors(rng, factors, side, g);
    g.lo = std::min(g.lo, g.zero_point);
    g.hi = rng.chance(70) ? 255 : static_cast<int32_t>(rng.between(g.lo, 255));
    now_testing("%s rows=%d n=%d lda=%d ldb=%d ldo=%d sa=%g sb=%g inv=%g za=%d zb=%d zp=%d [%d,%d]", row.name,
                static_cast<int>(g.rows), static_cast<int>(g.n), static_cast<int>(g.lda), static_cast<int>(g.ldb),
                static_cast<int>(g.ldo), g.a_scale, g.b_scale, g.inv_scale, g.a_zero_point, g.b_zero_point, g.zero_point, g.lo,
                g.hi);
    g.out = want.place(g.rows, g.n, g.ldo, side);
    (table_of(Isa::ref).*select)(g);
    g.out = got.place(g.rows, g.n, g.ldo, side);
    if (rng.chance(30)) in_place(g);
    kernel<Args>(row)(g);
    if (!same_output(got, want, g.rows, g.n)) return;
  }
}

}  // namespace

void test_add(const KernelRow& row) { test_binary<add_args>(row, 24, &KernelTable::add); }
void test_mul(const KernelRow& row) { test_binary<mul_args>(row, 26, &KernelTable::mul); }

void test_sum(const KernelRow& row) {
  Rng rng(34);
  Guarded a_memory(8 * kMaxLength), b_memory(8 * kMaxLength), rank_a(256), rank_b(256), whole_a(256), whole_b(256);
  Output got(1 << 14), want(1 << 14);
  for (int i = 0; i < cases(12000); ++i) {
    const Side side = rng.chance(50) ? Side::start : Side::end;
    sum_args g{};
    any_rows(rng, a_memory, b_memory, side, g);
    const auto any_table = [&](Guarded& memory) {
      uint8_t* t = memory.place<uint8_t>(256, side);
      fill(rng, any_mood(rng), t, 256);
      return t;
    };
    g.rank_a = any_table(rank_a);
    g.rank_b = any_table(rank_b);
    g.whole_a = reinterpret_cast<const int8_t*>(any_table(whole_a));
    uint8_t* steps = any_table(whole_b);
    std::replace(steps, steps + 256, uint8_t(127), uint8_t(126));
    g.whole_b = reinterpret_cast<const int8_t*>(steps);
    g.lo = rng.chance(50) ? 0 : static_cast<int32_t>(rng.between(0, 255));
    g.hi = rng.chance(50) ? 255 : static_cast<int32_t>(rng.between(g.lo, 255));
    g.wide = rng.chance(50);
    g.first_a = static_cast<int32_t>(rng.pick<int64_t>({0, 255, rng.between(0, 255)}));
    g.first_b = static_cast<int32_t>(rng.pick<int64_t>({0, 255, rng.between(0, 255)}));
    now_testing("%s rows=%d n=%d lda=%d ldb=%d ldo=%d [%d,%d] wide=%d first=%d,%d", row.name, static_cast<int>(g.rows),
                static_cast<int>(g.n), static_cast<int>(g.lda), static_cast<int>(g.ldb), static_cast<int>(g.ldo), g.lo, g.hi,
                g.wide, g.first_a, g.first_b);
    g.out = want.place(g.rows, g.n, g.ldo, side);
    table_of(Isa::ref).sum(g);
    g.out = got.place(g.rows, g.n, g.ldo, side);
    if (rng.chance(30)) in_place(g);
    kernel<sum_args>(row)(g);
    if (!same_output(got, want, g.rows, g.n)) return;
  }
}

void test_lut(const KernelRow& row) {
  Rng rng(25);
  Guarded x_memory(8 * kMaxLength), table_memory(256);
  Output got(1 << 14), want(1 << 14);
  for (int i = 0; i < cases(10000); ++i) {
    const Side side = rng.chance(50) ? Side::start : Side::end;
    const int64_t n = any_length(rng), rows = rng.pick<int64_t>({0, 1, 1, 2, 5});
    const int64_t ldx = n + rng.pick<int64_t>({0, 0, 1, 64}), ldo = n + rng.pick<int64_t>({0, 0, 7, 64});
    const int64_t bytes = rows ? (rows - 1) * ldx + n : 0;
    uint8_t* x = x_memory.place<uint8_t>(static_cast<size_t>(bytes), side);
    fill(rng, any_mood(rng), x, bytes);
    uint8_t* t = table_memory.place<uint8_t>(256, side);
    fill(rng, Mood::uniform, t, 256);
    now_testing("%s rows=%d n=%d ldx=%d ldo=%d", row.name, static_cast<int>(rows), static_cast<int>(n), static_cast<int>(ldx),
                static_cast<int>(ldo));
    lut_args g{x, t, want.place(rows, n, ldo, side), n, rows, ldx, ldo};
    table_of(Isa::ref).lut(g);
    g.out = got.place(rows, n, ldo, side);
    if (rng.chance(30)) {  // in place
      for (int64_t r = 0; r < rows && n > 0; ++r) std::memcpy(g.out + r * ldo, x + r * ldx, static_cast<size_t>(n));
      g.x = g.out;
      g.ldx = ldo;
    }
    kernel<lut_args>(row)(g);
    if (!same_output(got, want, rows, n)) return;
  }
}

}  // namespace test
}  // namespace qgemm
