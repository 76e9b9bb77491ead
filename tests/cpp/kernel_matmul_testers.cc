// Testers of the kernels around products of activations and around 16-bit activations.
#include <cmath>

#include "kernel_testers.h"

namespace qgemm {
namespace test {

void test_pack_b(const KernelRow& row) {
  Rng rng(31);
  Guarded memory(1 << 16);
  Output got(1 << 16), want(1 << 16), got_sum(4096), want_sum(4096);
  for (int i = 0; i < cases(6000); ++i) {
    const Side side = rng.chance(50) ? Side::start : Side::end;
    const int width = 16 * static_cast<int>(rng.between(1, 4)), n = static_cast<int>(rng.between(1, width));
    const int k = static_cast<int>(rng.pick<int64_t>({0, 1, 2, 3, 4, 5, 7, 8, 31, 64, rng.between(0, 130)}));
    const bool transposed = rng.chance(50);
    const int64_t rows = transposed ? n : k, columns = transposed ? k : n, ldb = columns + rng.pick<int64_t>({0, 0, 1, 19});
    const int64_t bytes = rows > 0 && columns > 0 ? (rows - 1) * ldb + columns : 0;
    uint8_t* b = memory.place<uint8_t>(static_cast<size_t>(bytes), side);
    fill(rng, any_mood(rng), b, bytes);
    now_testing("%s k=%d n=%d width=%d transposed=%d ldb=%d", row.name, k, n, width, transposed, static_cast<int>(ldb));
    const int64_t panel = static_cast<int64_t>(k + 3) / 4 * 4 * width;
    pack_b_args g{};
    g.b = b;
    g.ldb = ldb;
    g.transposed = transposed;
    g.flip = rng.chance(50) ? 0x80 : 0;
    g.k = k;
    g.n = n;
    g.width = width;
    g.panel = reinterpret_cast<int8_t*>(want.place(1, panel, panel, side));
    g.colsum = reinterpret_cast<int32_t*>(want_sum.place(1, 4 * width, 4 * width, side));
    table_of(Isa::ref).pack_b(g);
    g.panel = reinterpret_cast<int8_t*>(got.place(1, panel, panel, side));
    g.colsum = reinterpret_cast<int32_t*>(got_sum.place(1, 4 * width, 4 * width, side));
    kernel<pack_b_args>(row)(g);
    if (!same_output(got, want, 1, panel) || !same_output(got_sum, want_sum, 1, 4 * width)) return;
  }
}

void test_pack_w(const KernelRow& row) {
  Rng rng(34);
  Guarded memory(1 << 16), zero_points(4096);
  Output got(1 << 16), want(1 << 16), got_sums(1 << 16), want_sums(1 << 16);
  for (int i = 0; i < cases(6000); ++i) {
    const Side side = rng.chance(50) ? Side::start : Side::end;
    const int width = 16 * static_cast<int>(rng.between(1, 4)), n = static_cast<int>(rng.between(1, width));
    const int64_t k = rng.pick<int64_t>({0, 1, 2, 3, 4, 5, 31, 32, 33, 63, 64, 65, 127, 128, 130, rng.between(0, 200)});
    const bool lines = rng.chance(30);  // rows whole cache lines apart, from any multiple of 8 on
    const int64_t ldw = lines ? (k + 63) / 64 * 64 : k + rng.pick<int64_t>({0, 0, 1, 19}),
                  shift = lines ? 8 * rng.between(0, 7) : 0;
    const int64_t group = rng.pick<int64_t>({4, 8, 12, 16, 32, 36, 64, 128, 200, INT64_MAX});
    const int64_t bytes = k > 0 ? (n - 1) * ldw + k + shift : 0, groups = k > group ? (k + group - 1) / group : 1;
    pack_w_args g{};
    g.bits = rng.chance(50) ? 4 : 8;
    int8_t* w = memory.place<int8_t>(static_cast<size_t>(bytes), side);
    const bool inside = g.bits == 4 && rng.chance(80);
    fill(rng, any_mood(rng), w, bytes, inside ? -8 : -128, inside ? 7 : 127);
    if (rng.chance(50)) {
      int8_t* z = zero_points.place<int8_t>(static_cast<size_t>(width), side);
      for (int c = 0; c < width; ++c)
        z[c] = static_cast<int8_t>(c < n ? rng.pick<int64_t>({-128, 127, 0, rng.between(-128, 127)}) : 0);
      g.zero_point = z;
    }
    const int64_t s8 = (k + 3) / 4 * 4 * width, panel = g.bits == 4 ? (s8 + 127) / 128 * 64 : s8, sums = 16 * width * groups;
    const bool aligned = side == Side::start || panel % 64 == 0;
    g.stream = aligned && rng.chance(50);
    now_testing("%s bits=%d k=%d n=%d width=%d ldw=%d group=%d zero_point=%d stream=%d", row.name, g.bits, int(k), n, width,
                int(ldw), int(group), g.zero_point != nullptr, g.stream);
    g.w = k > 0 ? w + shift : w;
    g.ldw = ldw;
    g.k = k;
    g.n = n;
    g.width = width;
    g.group = group;
    bool in_range[2] = {false, true};
    for (Output* o : {&want, &got}) {
      Output& both = o == &want ? want_sums : got_sums;
      g.panel = o->place(1, panel, panel, side);
      g.sum = reinterpret_cast<int64_t*>(both.place(1, sums, sums, side));
      g.absolute = g.sum + groups * width;
      g.in_range = &in_range[o == &got];
      if (o == &want)
        table_of(Isa::ref).pack_w(g);
      else
        kernel<pack_w_args>(row)(g);
    }
    ASSERT_EQ(in_range[0], in_range[1]) << current_case();
    if (!same_output(got, want, 1, panel) || !same_output(got_sums, want_sums, 1, sums)) return;
  }
}

void test_flip(const KernelRow& row) {
  Rng rng(41);
  Guarded memory(1 << 13);
  Output got(1 << 12), want(1 << 12);
  for (int i = 0; i < cases(10000); ++i) {
    const Side side = rng.chance(50) ? Side::start : Side::end;
    const int64_t rows = rng.between(0, 5), n = rng.pick<int64_t>({0, 1, 31, 32, 33, 63, 64, 65, 128, rng.between(0, 300)});
    const int64_t ldx = n + rng.pick<int64_t>({0, 0, 1, 64}), bytes = rows ? (rows - 1) * ldx + n : 0;
    uint8_t* x = memory.place<uint8_t>(static_cast<size_t>(bytes), side);
    fill(rng, Mood::uniform, x, bytes);
    now_testing("%s rows=%d n=%d ldx=%d", row.name, static_cast<int>(rows), static_cast<int>(n), static_cast<int>(ldx));
    flip_args g{x, want.place(rows, n, n, side), static_cast<ptrdiff_t>(rows), static_cast<ptrdiff_t>(n),
                static_cast<ptrdiff_t>(ldx)};
    table_of(Isa::ref).flip(g);
    g.out = got.place(rows, n, n, side);
    kernel<flip_args>(row)(g);
    if (!same_output(got, want, rows, n)) return;
  }
}

void test_row_sum(const KernelRow& row) {
  Rng rng(32);
  Guarded memory(1 << 15);
  Output got(4096), want(4096);
  for (int i = 0; i < cases(6000); ++i) {
    const Side side = rng.chance(50) ? Side::start : Side::end;
    const int64_t m = rng.chance(50) ? rng.between(0, 9) : rng.between(14, 40),
                  k = rng.pick<int64_t>({0, 1, 31, 32, 33, 63, 64, 65, 127, 128, 129, rng.between(0, 400)});
    const int64_t lda = k + rng.pick<int64_t>({0, 0, 1, 19}), bytes = m > 0 ? (m - 1) * lda + k : 0;
    uint8_t* a = memory.place<uint8_t>(static_cast<size_t>(bytes), side);
    fill(rng, any_mood(rng), a, bytes);
    now_testing("%s m=%d k=%d lda=%d", row.name, static_cast<int>(m), static_cast<int>(k), static_cast<int>(lda));
    row_sum_args g{a, lda, m, k, reinterpret_cast<int32_t*>(want.place(1, 4 * m, 4 * m, side))};
    table_of(Isa::ref).row_sum(g);
    g.sum = reinterpret_cast<int32_t*>(got.place(1, 4 * m, 4 * m, side));
    kernel<row_sum_args>(row)(g);
    if (!same_output(got, want, 1, 4 * m)) return;
  }
}

void test_combine16(const KernelRow& row) {
  Rng rng(33);
  Guarded sum_memory(1 << 14), correction_memory(4096), scale_memory(4096), bias_memory(4096);
  Output got(1 << 14), want(1 << 14);
  for (int i = 0; i < cases(6000); ++i) {
    const Side side = rng.chance(50) ? Side::start : Side::end;
    const int m = static_cast<int>(rng.between(1, 12)), width = 16 * static_cast<int>(rng.between(1, 4)),
              n = static_cast<int>(rng.between(1, width));
    const size_t elements = 2 * static_cast<size_t>(m) * static_cast<size_t>(width),
                 columns = static_cast<size_t>((n + 15) / 16 * 16);
    int32_t* sums = sum_memory.place<int32_t>(elements, side);
    const bool wide = rng.chance(30);  // accumulators beyond 2^24, where the conversion to fp32 rounds
    for (size_t j = 0; j < elements; ++j)
      sums[j] = static_cast<int32_t>(wide ? rng.between(INT32_MIN, INT32_MAX) : rng.between(-60000, 60000));
    double* correction = correction_memory.place<double>(columns, side);
    float *scale = scale_memory.place<float>(columns, side), *bias = bias_memory.place<float>(columns, side);
    for (size_t j = 0; j < columns; ++j) {
      correction[j] =
          static_cast<double>(wide ? rng.between(-(int64_t(1) << 45), int64_t(1) << 45) : rng.between(-100000, 100000));
      scale[j] = rng.uniform(1e-7f, 1e-5f);
      bias[j] = rng.uniform(-10, 10);
    }
    const int64_t ld = (n + rng.between(0, 5)) * 4;
    combine16_args g{};
    g.sums = sums;
    g.m = m;
    g.n = n;
    g.width = width;
    g.correction = correction;
    g.scale = scale;
    g.bias = bias;
    g.f_lo = rng.chance(50) ? 0.0f : -INFINITY;
    g.f_hi = rng.chance(50) ? 6.0f : INFINITY;
    g.ldc = ld;
    now_testing("%s m=%d n=%d width=%d ldc=%d", row.name, m, n, width, static_cast<int>(ld));
    g.c = reinterpret_cast<float*>(want.place(m, 4 * n, ld, side));
    table_of(Isa::ref).combine16(g);
    g.c = reinterpret_cast<float*>(got.place(m, 4 * n, ld, side));
    kernel<combine16_args>(row)(g);
    if (!same_output(got, want, m, 4 * n)) return;
  }
}

}  // namespace test
}  // namespace qgemm
