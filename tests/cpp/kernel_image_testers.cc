// Testers of the kernels that move and interpolate pixels, and of float products of them.
#include <cmath>
#include <memory>

#include "kernel_testers.h"

namespace qgemm {
namespace test {

void test_gather(const KernelRow& row) {
  Rng rng(31);
  Guarded x_memory(1 << 12), pointers(8 * 16);
  Output got(1 << 14), want(1 << 14);
  for (int i = 0; i < cases(10000); ++i) {
    const Side side = rng.chance(50) ? Side::start : Side::end;
    const int64_t rows = rng.between(0, 8), n = rng.chance(70) ? rng.between(0, 70) : rng.between(0, 400),
                  ldo = n + rng.pick<int64_t>({0, 0, 3});
    uint8_t* x = x_memory.place<uint8_t>(static_cast<size_t>(3 * n), side);
    fill(rng, Mood::uniform, x, 3 * n);
    std::vector<const uint8_t*> a(static_cast<size_t>(rows));
    const int64_t step = rng.between(0, rows > 1 ? 2 * n / (rows - 1) : 0);
    const bool spaced = rng.chance(40);
    for (auto& p : a) p = spaced ? x + (&p - a.data()) * step : x + rng.between(0, 2) * n;
    now_testing("%s rows=%d n=%d ldo=%d", row.name, static_cast<int>(rows), static_cast<int>(n), static_cast<int>(ldo));
    gather_args g{spaced ? nullptr : pointers.place(a, side), want.place(rows, n, ldo, side), rows, n, ldo, x, step};
    table_of(Isa::ref).gather(g);
    g.out = got.place(rows, n, ldo, side);
    kernel<gather_args>(row)(g);
    if (!same_output(got, want, rows, n)) return;
  }
}

void test_interleave3(const KernelRow& row) {
  Rng rng(38);
  Guarded memory(1 << 11);
  Output got(1 << 11), want(1 << 11);
  for (int i = 0; i < cases(10000); ++i) {
    const Side side = rng.chance(50) ? Side::start : Side::end;
    const int64_t n = rng.pick<int64_t>({0, 1, 15, 16, 17, 31, 32, 33, rng.between(0, 200)}), ld = n + rng.between(0, 40);
    const int64_t bytes = n ? 2 * ld + n : 0;
    uint8_t* planes = memory.place<uint8_t>(static_cast<size_t>(bytes), side);
    fill(rng, Mood::uniform, planes, bytes);
    now_testing("%s n=%d ld=%d", row.name, static_cast<int>(n), static_cast<int>(ld));
    interleave3_args g{planes, static_cast<ptrdiff_t>(ld), static_cast<ptrdiff_t>(n), want.place(1, 3 * n, 3 * n, side)};
    table_of(Isa::ref).interleave3(g);
    g.out = got.place(1, 3 * n, 3 * n, side);
    kernel<interleave3_args>(row)(g);
    if (!same_output(got, want, 1, 3 * n)) return;
  }
}

void test_permute(const KernelRow& row) {
  Rng rng(32);
  Guarded x_memory(1 << 14), indices(1 << 12);
  Output got(1 << 14), want(1 << 14);
  for (int i = 0; i < cases(10000); ++i) {
    const Side side = rng.chance(50) ? Side::start : Side::end;
    const int64_t pixels = rng.between(0, 6),
                  c = rng.pick<int64_t>({1, 3, 16, 63, 64, 65, 127, 128, 129, 192, 256, 257, 320, 600, rng.between(1, 700)});
    uint8_t* x = x_memory.place<uint8_t>(static_cast<size_t>(pixels * c), side);
    fill(rng, Mood::uniform, x, pixels * c);
    const int64_t outputs = rng.chance(50) ? c : rng.pick<int64_t>({0, 1, 64, 65, 256, 257, rng.between(1, 700)});
    int32_t* index = indices.place<int32_t>(static_cast<size_t>(outputs), side);
    for (int64_t j = 0; j < outputs; ++j) index[j] = static_cast<int32_t>(rng.between(0, c - 1));
    now_testing("%s pixels=%d channels=%d outputs=%d", row.name, static_cast<int>(pixels), static_cast<int>(c),
                static_cast<int>(outputs));
    permute_args g{x, want.place(pixels, outputs, outputs, side), index, pixels, c, outputs};
    table_of(Isa::ref).permute(g);
    g.out = got.place(pixels, outputs, outputs, side);
    kernel<permute_args>(row)(g);
    if (!same_output(got, want, pixels, outputs)) return;
  }
}

void test_lerp(const KernelRow& row) {
  Rng rng(33);
  Guarded a_memory(512), b_memory(512);
  Output got(1 << 12), want(1 << 12);
  for (int i = 0; i < cases(10000); ++i) {
    const Side side = rng.chance(50) ? Side::start : Side::end;
    const int64_t n = rng.between(0, 150);
    uint8_t *a = a_memory.place<uint8_t>(static_cast<size_t>(n), side),
            *b = b_memory.place<uint8_t>(static_cast<size_t>(n), side);
    fill(rng, any_mood(rng), a, n);
    fill(rng, any_mood(rng), b, n);
    const float t = rng.pick({0.0f, 1.0f, 0.25f, rng.uniform(0, 1)});
    now_testing("%s n=%d t=%g", row.name, static_cast<int>(n), t);
    lerp_args g{a,
                b,
                reinterpret_cast<float*>(want.place(1, 4 * n, 4 * n, side)),
                n,
                1.0f - t,
                t,
                rng.uniform(0.001f, 1),
                static_cast<int32_t>(rng.between(0, 255))};
    table_of(Isa::ref).lerp(g);
    g.f = reinterpret_cast<float*>(got.place(1, 4 * n, 4 * n, side));
    kernel<lerp_args>(row)(g);
    if (!same_output(got, want, 1, 4 * n)) return;
  }
}

void test_mix(const KernelRow& row) {
  Rng rng(34);
  Guarded f_memory(1 << 13), lefts(64), rights(64), weights_left(64), weights_right(64);
  Output got(1 << 12), want(1 << 12);
  for (int i = 0; i < cases(10000); ++i) {
    const Side side = rng.chance(50) ? Side::start : Side::end;
    const int64_t pixels = rng.between(0, 7), c = rng.pick<int64_t>({1, 3, 8, 15, 16, 17, 63, 64, 65, 130, rng.between(1, 150)});
    float* f = f_memory.place<float>(static_cast<size_t>(4 * c), side);
    for (int64_t j = 0; j < 4 * c; ++j) f[j] = rng.chance(3) ? rng.pick({1e30f, -1e30f}) : rng.uniform(-30, 30);
    std::vector<int32_t> left(static_cast<size_t>(pixels)), right(left);
    std::vector<float> wl(left.size()), wr(left.size());
    for (size_t p = 0; p < left.size(); ++p) {
      left[p] = static_cast<int32_t>(rng.between(0, 3));
      right[p] = static_cast<int32_t>(rng.between(0, 3));
      wr[p] = rng.pick({0.0f, 1.0f, 0.5f, rng.uniform(0, 1)});
      wl[p] = 1.0f - wr[p];
    }
    now_testing("%s pixels=%d channels=%d", row.name, static_cast<int>(pixels), static_cast<int>(c));
    mix_args g{};
    g.f = f;
    g.left = lefts.place(left, side);
    g.right = rights.place(right, side);
    g.wl = weights_left.place(wl, side);
    g.wr = weights_right.place(wr, side);
    g.pixels = pixels;
    g.channels = c;
    g.inv_scale = rng.pick({1.0f, 10.0f, 1e10f});
    g.zero_point = static_cast<int32_t>(rng.between(0, 255));
    g.lo = rng.chance(50) ? 0 : g.zero_point;
    g.hi = rng.chance(70) ? 255 : static_cast<int32_t>(rng.between(g.lo, 255));
    g.out = want.place(pixels, c, c, side);
    table_of(Isa::ref).mix(g);
    g.out = got.place(pixels, c, c, side);
    kernel<mix_args>(row)(g);
    if (!same_output(got, want, pixels, c)) return;
  }
}

}  // namespace test
}  // namespace qgemm
