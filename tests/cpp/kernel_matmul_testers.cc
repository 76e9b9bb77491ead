// Packing of activations, row sums, and the sum of 16-bit halves.
#include <cmath>

#include "kernel_testers.h"

namespace qgemm {
namespace test {

void test_pack_b(const KernelRow& row) {
  Rng rng(21);
  Guarded memory(1 << 16);
  Output panel(1 << 16), panel_want(1 << 16), sums(1024), sums_want(1024);
  for (int i = 0; i < cases(4000); ++i) {
    const Side side = rng.chance(50) ? Side::start : Side::end;
    const int width = static_cast<int>(rng.pick<int64_t>({16, 32, 48, 64})), n = static_cast<int>(rng.between(width - 15, width));
    const int k = static_cast<int>(rng.pick<int64_t>({0, 1, 3, 4, 5, 63, 64, 65, 127, rng.between(0, 150)}));
    const bool transposed = rng.chance(50);
    const int rows = transposed ? n : k, columns = transposed ? k : n;
    const int64_t ld = columns + rng.pick<int64_t>({0, 1, 37});
    const int64_t bytes = rows > 0 && columns > 0 ? (rows - 1) * ld + columns : 0;
    uint8_t* b = memory.place<uint8_t>(static_cast<size_t>(bytes), side);
    fill(rng, any_mood(rng), b, bytes);
    pack_b_args g{b, ld, transposed, static_cast<uint8_t>(rng.chance(50) ? 0x80 : 0), k, n, width, nullptr, nullptr};
    now_testing("%s k=%d n=%d width=%d transposed=%d ld=%d flip=%d", row.name, k, n, width, transposed, static_cast<int>(ld), g.flip);
    const int64_t size = static_cast<int64_t>((k + 3) / 4) * width * 4;
    g.panel = reinterpret_cast<int8_t*>(panel_want.place(1, size, size, side));
    g.colsum = reinterpret_cast<int32_t*>(sums_want.place(1, width * 4, width * 4, side));
    table_of(Isa::ref).pack_b(g);
    g.panel = reinterpret_cast<int8_t*>(panel.place(1, size, size, side));
    g.colsum = reinterpret_cast<int32_t*>(sums.place(1, width * 4, width * 4, side));
    kernel<pack_b_args>(row)(g);
    if (!same_output(panel, panel_want, 1, size) || !same_output(sums, sums_want, 1, width * 4)) return;
  }
}

void test_row_sum(const KernelRow& row) {
  Rng rng(22);
  Guarded memory(1 << 14);
  Output got(256), want(256);
  for (int i = 0; i < cases(4000); ++i) {
    const Side side = rng.chance(50) ? Side::start : Side::end;
    const int64_t m = rng.between(0, 9), k = rng.pick<int64_t>({0, 1, 31, 32, 33, 63, 64, 65, 127, 128, 129, rng.between(0, 400)});
    const int64_t lda = k + rng.pick<int64_t>({0, 1, 50}), bytes = m > 0 && k > 0 ? (m - 1) * lda + k : 0;
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
  Rng rng(23);
  Guarded hi(1 << 14), lo(1 << 14), corrections(1 << 10), scales(1 << 9), biases(1 << 9);
  Output got(1 << 14), want(1 << 14);
  for (int i = 0; i < cases(4000); ++i) {
    const Side side = rng.chance(50) ? Side::start : Side::end;
    const int width = static_cast<int>(rng.pick<int64_t>({16, 32, 48, 64})), n = static_cast<int>(rng.between(width - 15, width));
    const int m = static_cast<int>(rng.between(1, 12));
    const int64_t reach = rng.pick<int64_t>({100, 1 << 20, INT32_MAX});
    combine16_args g{};
    int32_t *h = hi.place<int32_t>(static_cast<size_t>(m * width), side), *l = lo.place<int32_t>(static_cast<size_t>(m * width), side);
    for (int j = 0; j < m * width; ++j) h[j] = static_cast<int32_t>(rng.between(-reach, reach)), l[j] = static_cast<int32_t>(rng.between(-reach, reach));
    double* correction = corrections.place<double>(static_cast<size_t>(width), side);
    float *scale = scales.place<float>(static_cast<size_t>(width), side), *bias = biases.place<float>(static_cast<size_t>(width), side);
    for (int j = 0; j < width; ++j) {
      correction[j] = static_cast<double>(rng.between(-reach * 65535, reach * 65535));
      scale[j] = rng.uniform(1e-9f, 1e-3f);
      bias[j] = rng.uniform(-10, 10);
    }
    g.hi = h;
    g.lo = l;
    g.m = m;
    g.n = n;
    g.width = width;
    g.correction = correction;
    g.scale = scale;
    g.bias = bias;
    g.f_lo = rng.chance(50) ? -INFINITY : 0.0f;
    g.f_hi = rng.chance(50) ? INFINITY : 6.0f;
    g.ldc = (n + rng.between(0, 5)) * 4;
    now_testing("%s m=%d n=%d width=%d reach=%d", row.name, m, n, width, static_cast<int>(reach));
    g.c = reinterpret_cast<float*>(want.place(m, n * 4, g.ldc, side));
    table_of(Isa::ref).combine16(g);
    g.c = reinterpret_cast<float*>(got.place(m, n * 4, g.ldc, side));
    kernel<combine16_args>(row)(g);
    if (!same_output(got, want, m, n * 4)) return;
  }
}

}  // namespace test
}  // namespace qgemm
