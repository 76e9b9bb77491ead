// Testers of the kernels that move and interpolate pixels, and of float products of them.
#include <algorithm>
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

void test_tails(const KernelRow& row) {
  Rng rng(39);
  std::vector<std::unique_ptr<Guarded>> memory;
  for (int t = 0; t < 8; ++t) memory.push_back(std::make_unique<Guarded>(1 << 12));
  Guarded pointers(8 * 8);
  Output got(1 << 11), want(1 << 11);
  for (int i = 0; i < cases(10000); ++i) {
    const Side side = rng.chance(50) ? Side::start : Side::end;
    const int64_t n = rng.between(1, 3), taps = rng.between(1, 8 / n), ldo = taps * n > 4 || rng.chance(20) ? 8 : 4;
    const int64_t step = rng.chance(80) ? rng.between(1, 16) : rng.between(1, 140), most = std::min<int64_t>(70, 4000 / step);
    const int64_t pixels = rng.pick<int64_t>({0, 1, std::min<int64_t>(16, most), rng.between(0, most)});
    const int64_t bytes = pixels ? (pixels - 1) * step + n : 0;
    std::vector<const uint8_t*> lines;
    for (int64_t t = 0; t < taps; ++t) {
      uint8_t* line = memory[static_cast<size_t>(t)]->place<uint8_t>(static_cast<size_t>(bytes), side);
      fill(rng, Mood::uniform, line, bytes);
      lines.push_back(line);
    }
    now_testing("%s taps=%d n=%d step=%d pixels=%d ldo=%d", row.name, static_cast<int>(taps), static_cast<int>(n),
                static_cast<int>(step), static_cast<int>(pixels), static_cast<int>(ldo));
    tails_args g{pointers.place(lines, side),
                 static_cast<int32_t>(taps),
                 static_cast<int32_t>(n),
                 step,
                 pixels,
                 want.place(pixels, ldo, ldo, side),
                 ldo};
    table_of(Isa::ref).tails(g);
    g.out = got.place(pixels, ldo, ldo, side);
    kernel<tails_args>(row)(g);
    if (!same_output(got, want, pixels, ldo)) return;
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
  Guarded x_memory(1 << 15), indices(1 << 12);
  Output got(1 << 15), want(1 << 15);
  for (int i = 0; i < cases(10000);) {
    const Side side = rng.chance(50) ? Side::start : Side::end;
    permute_args g{};
    g.rows = rng.pick<int64_t>({0, 1, 1, 2, 3});
    g.units = rng.between(0, 6);
    g.in_pieces = rng.pick<int64_t>({1, 1, 2, 3});
    g.out_pieces = rng.pick<int64_t>({1, 1, 2, 3});
    g.in_length = rng.pick<int64_t>({1, 3, 15, 16, 17, 63, 64, 65, 127, 128, 129, 192, 256, 257, 320, 600, rng.between(1, 700)});
    g.out_length = rng.chance(50) ? g.in_length : rng.pick<int64_t>({1, 16, 64, 65, 256, 257, rng.between(1, 700)});
    const bool halves = rng.chance(20);  // as a pixel shuffle makes them
    if (halves) g.in_pieces = 1, g.out_pieces = 2, g.out_length = rng.between(1, 70), g.in_length = 2 * g.out_length;
    if (rng.chance(20)) g.units = rng.between(7, 60);
    // Pieces of a unit, and rows, lie one behind the other or with gaps between them.
    g.in_pitch = g.units * g.in_length + rng.pick<int64_t>({0, 0, 5});
    g.out_pitch = g.units * g.out_length + rng.pick<int64_t>({0, 0, 7});
    g.ldx = g.in_pieces * g.in_pitch;
    g.ldo = g.out_pieces * g.out_pitch;
    if (rng.chance(30)) g.twin = g.ldo, g.ldo *= 2;
    const auto bytes = [&](int64_t ld, int64_t pitch, int64_t pieces, int64_t length) {
      return g.rows > 0 && g.units > 0 ? (g.rows - 1) * ld + (pieces - 1) * pitch + g.units * length : 0;
    };
    const int64_t read = bytes(g.ldx, g.in_pitch, g.in_pieces, g.in_length),
                  runs = g.units ? g.rows * g.out_pieces * (g.twin ? 2 : 1) : 0, run = g.units * g.out_length;
    if (read > 1 << 15 || runs * g.out_pitch > (1 << 15) - 8192 || g.out_pieces * g.out_length > 1024) continue;
    ++i;
    uint8_t* x = x_memory.place<uint8_t>(static_cast<size_t>(read), side);
    fill(rng, Mood::uniform, x, read);
    const int64_t outputs = g.out_pieces * g.out_length;
    int32_t* index = indices.place<int32_t>(static_cast<size_t>(outputs), side);
    // Any order, one in steps, or one that leaves bytes within `near` of their place.
    const int64_t most = g.in_pieces * g.in_length - 1, step = rng.pick<int64_t>({0, 1, 4}), near = rng.between(0, 100);
    const bool some = rng.chance(40);
    for (int64_t j = 0; j < outputs; ++j) {
      const int64_t place = halves ? 2 * (j % g.out_length) : j;
      index[j] = static_cast<int32_t>(some   ? std::clamp<int64_t>(place + rng.between(-near, near), 0, most)
                                      : step ? j * step % (most + 1)
                                             : rng.between(0, most));
    }
    g.x = x;
    g.index = index;
    now_testing("%s rows=%d units=%d in %d x %d, %d apart; out %d x %d, %d apart, twin %d", row.name, int(g.rows), int(g.units),
                int(g.in_pieces), int(g.in_length), int(g.in_pitch), int(g.out_pieces), int(g.out_length), int(g.out_pitch),
                int(g.twin));
    g.out = want.place(runs, run, g.out_pitch, side);
    table_of(Isa::ref).permute(g);
    g.out = got.place(runs, run, g.out_pitch, side);
    kernel<permute_args>(row)(g);
    if (!same_output(got, want, runs, run)) return;
  }
}

void test_lerp(const KernelRow& row) {
  Rng rng(33);
  Guarded a_memory(4 * 150), b_memory(4 * 150);
  Output got(1 << 12), want(1 << 12);
  for (int i = 0; i < cases(10000); ++i) {
    const Side side = rng.chance(50) ? Side::start : Side::end;
    const int64_t n = rng.between(0, 150);
    float *a = a_memory.place<float>(static_cast<size_t>(n), side), *b = b_memory.place<float>(static_cast<size_t>(n), side);
    for (int64_t j = 0; j < n; ++j) a[j] = rng.uniform(-30, 30), b[j] = rng.chance(3) ? -0.0f : rng.uniform(-30, 30);
    const float t = rng.pick({0.0f, 1.0f, 0.25f, rng.uniform(0, 1)});
    now_testing("%s n=%d t=%g", row.name, static_cast<int>(n), t);
    lerp_args g{a, b, reinterpret_cast<float*>(want.place(1, 4 * n, 4 * n, side)), n, 1.0f - t, t};
    table_of(Isa::ref).lerp(g);
    g.f = reinterpret_cast<float*>(got.place(1, 4 * n, 4 * n, side));
    kernel<lerp_args>(row)(g);
    if (!same_output(got, want, 1, 4 * n)) return;
  }
}

void test_mix2(const KernelRow& row) {
  Rng rng(39);
  Guarded f_memory(1 << 13);
  Output got(1 << 12), want(1 << 12);
  for (int i = 0; i < cases(10000); ++i) {
    const Side side = rng.chance(50) ? Side::start : Side::end;
    mix2_args g{};
    g.channels = rng.pick<int64_t>({1, 3, 16, 24, 64, 65, rng.between(1, 130)});
    g.n = rng.pick<int64_t>({0, 1, 31, 32, 33, 63, 64, 65, 128, rng.between(0, 600)});
    g.run = g.n;
    if (rng.chance(30)) g.run = rng.pick<int64_t>({64, 128}), g.n = g.run * rng.between(0, 3);
    const int64_t runs = g.run ? g.n / g.run : 0;
    g.apart = 2 * g.run;
    const int64_t floats = g.n + 2 * g.channels;
    float* f = f_memory.place<float>(static_cast<size_t>(floats), side);
    g.bounded = rng.chance(50);
    for (int64_t j = 0; j < floats; ++j) f[j] = !g.bounded && rng.chance(3) ? rng.pick({1e30f, -1e30f}) : rng.uniform(-30, 30);
    g.f = f + g.channels;
    g.inv_scale = rng.pick({1.0f, 10.0f, g.bounded ? 4.0f : 1e10f});
    g.zero_point = static_cast<int32_t>(rng.between(0, 255));
    g.lo = rng.chance(50) ? 0 : g.zero_point;
    g.hi = rng.chance(70) ? 255 : static_cast<int32_t>(rng.between(g.lo, 255));
    now_testing("%s n=%d run=%d channels=%d inv=%g zp=%d [%d,%d] bounded=%d", row.name, int(g.n), int(g.run), int(g.channels),
                double(g.inv_scale), g.zero_point, g.lo, g.hi, g.bounded);
    g.even = want.place(2 * runs, g.run, g.run, side);
    g.odd = g.even + g.run;
    table_of(Isa::ref).mix2(g);
    g.even = got.place(2 * runs, g.run, g.run, side);
    g.odd = g.even + g.run;
    kernel<mix2_args>(row)(g);
    if (!same_output(got, want, 2 * runs, g.run)) return;
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
