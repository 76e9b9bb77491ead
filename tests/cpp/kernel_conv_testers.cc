// Testers of the kernels of convolution and pooling that are not GEMM: depthwise tiles, maxima, sums, and the end of an average.
#include <memory>

#include "kernel_testers.h"

namespace qgemm {
namespace test {
namespace {

// Separate guarded pages for the operand of each tap.
class TapRows {
 public:
  TapRows(size_t capacity) : capacity_(capacity) {}
  uint8_t* place(Rng& rng, Mood mood, size_t tap, int64_t bytes, Side side) {
    while (rows_.size() <= tap) rows_.push_back(std::make_unique<Guarded>(capacity_));
    uint8_t* p = rows_[tap]->place<uint8_t>(static_cast<size_t>(bytes), side);
    fill(rng, mood, p, bytes);
    return p;
  }

 private:
  size_t capacity_;
  std::vector<std::unique_ptr<Guarded>> rows_;
};

int any_channels(Rng& rng) {
  return static_cast<int>(rng.pick<int64_t>({1, 2, 15, 16, 17, 31, 32, 33, 48, 63, 64, rng.between(1, 64)}));
}

}  // namespace

void test_depthwise(const KernelRow& row) {
  Rng rng(11);
  EpilogueMaker maker;
  TapRows rows(1 << 13);
  Guarded weights(16 * 256), pointers(8 * 64);
  Output got(1 << 15), want(1 << 15);
  for (int i = 0; i < cases(8000); ++i) {
    const Side side = rng.chance(50) ? Side::start : Side::end;
    const int channels = any_channels(rng), taps = static_cast<int>(rng.pick<int64_t>({1, 2, 3, 4, 5, 7, 9, 9, 9, 25, 49}));
    const int pixels = static_cast<int>(rng.pick<int64_t>({1, 2, 3, 4, 5, 7, 8, 9, 13, rng.between(1, 30)}));
    const int64_t step = rng.pick<int64_t>({0, channels, 2 * channels, channels + 1, 64, 200});
    const Mood a_mood = any_mood(rng), b_mood = any_mood(rng);
    std::vector<const uint8_t*> a(static_cast<size_t>(taps));
    const uint8_t* shared = nullptr;
    for (size_t t = 0; t < a.size(); ++t) {
      a[t] = rows.place(rng, a_mood, t, (pixels - 1) * step + channels, side);
      if (shared && rng.chance(10)) a[t] = shared;  // taps outside the image share one row of zero points
      shared = a[t];
    }
    const int64_t groups = (taps + 3) / 4;
    int8_t* b = weights.place<int8_t>(static_cast<size_t>(groups * 256), side);
    fill(rng, b_mood, b, groups * 256);
    for (int64_t t = taps; t < 4 * groups; ++t)
      for (int64_t c = 0; c < 64; ++c) b[(t / 4 * 64 + c) * 4 + t % 4] = 0;
    const int col = 64 * static_cast<int>(rng.between(0, 1));
    const Epilogue& e = maker.make(rng, 1, col + 64, 255.0 * 128.0 * 3.0, false, false, side);
    const int64_t size = element_size(e.out), ld = (channels + rng.pick<int64_t>({0, 0, 1, 7})) * size;
    depthwise_args g{};
    g.a = pointers.place(a, side);
    g.step = step;
    g.pixels = pixels;
    g.taps = taps;
    g.channels = channels;
    g.b = b;
    g.ep = &e;
    g.col = col;
    g.ldc = ld;
    now_testing("%s pixels=%d taps=%d channels=%d step=%d col=%d ldc=%d %s", row.name, pixels, taps, channels,
                static_cast<int>(step), col, static_cast<int>(ld), maker.describe().c_str());
    g.c = want.place(pixels, channels * size, ld, side);
    table_of(Isa::ref).depthwise(g);
    g.c = got.place(pixels, channels * size, ld, side);
    kernel<depthwise_args>(row)(g);
    if (!same_output(got, want, pixels, channels * size)) return;
  }
}

void test_max_pool(const KernelRow& row) {
  Rng rng(12);
  TapRows rows(4096);
  Guarded pointers(8 * 64);
  Output got(4096), want(4096);
  for (int i = 0; i < cases(5000); ++i) {
    const Side side = rng.chance(50) ? Side::start : Side::end;
    const int channels = static_cast<int>(rng.between(0, 200)),
              taps = static_cast<int>(rng.pick<int64_t>({0, 1, 2, 4, 9, 25, 49}));
    std::vector<const uint8_t*> a(static_cast<size_t>(taps));
    for (size_t t = 0; t < a.size(); ++t) a[t] = rows.place(rng, any_mood(rng), t, channels, side);
    now_testing("%s channels=%d taps=%d", row.name, channels, taps);
    max_pool_args g{pointers.place(a, side), taps, channels, want.place(1, channels, channels, side)};
    table_of(Isa::ref).max_pool(g);
    g.out = got.place(1, channels, channels, side);
    kernel<max_pool_args>(row)(g);
    if (!same_output(got, want, 1, channels)) return;
  }
}

void test_sum_pool(const KernelRow& row) {
  Rng rng(13);
  TapRows rows(4096);
  Guarded pointers(8 * 400);
  Output got(8192), want(8192);
  for (int i = 0; i < cases(3000); ++i) {
    const Side side = rng.chance(50) ? Side::start : Side::end;
    // 255 bytes of 255 fill 16 bits, 257 overflow them.
    const int channels = static_cast<int>(rng.between(0, 150)),
              taps = static_cast<int>(rng.pick<int64_t>({0, 1, 2, 4, 9, 49, 255, 256, 257, 300}));
    std::vector<const uint8_t*> a(static_cast<size_t>(taps));
    const Mood mood = any_mood(rng);
    for (size_t t = 0; t < a.size(); ++t) a[t] = rows.place(rng, mood, t, channels, side);
    now_testing("%s channels=%d taps=%d", row.name, channels, taps);
    sum_pool_args g{pointers.place(a, side), taps, channels,
                    reinterpret_cast<int32_t*>(want.place(1, 4 * channels, 4 * channels, side))};
    table_of(Isa::ref).sum_pool(g);
    g.sum = reinterpret_cast<int32_t*>(got.place(1, 4 * channels, 4 * channels, side));
    kernel<sum_pool_args>(row)(g);
    if (!same_output(got, want, 1, 4 * channels)) return;
  }
}

void test_requantize(const KernelRow& row) {
  Rng rng(14);
  EpilogueMaker maker;
  Guarded memory(4 * 192);
  Output got(1 << 12), want(1 << 12);
  for (int i = 0; i < cases(6000); ++i) {
    const Side side = rng.chance(50) ? Side::start : Side::end;
    const int64_t n = rng.between(0, 150), readable = (n + 15) / 16 * 16;
    const Epilogue& e = maker.make(rng, 1, readable, 255.0 * 49, false, false, side);
    int32_t* acc = memory.place<int32_t>(static_cast<size_t>(readable), side);
    for (int64_t j = 0; j < readable; ++j) acc[j] = static_cast<int32_t>(rng.between(-255 * 49, 255 * 49));
    const int64_t bytes = n * element_size(e.out);
    now_testing("%s n=%d %s", row.name, static_cast<int>(n), maker.describe().c_str());
    requantize_args g{acc, static_cast<int32_t>(n), &e, want.place(1, bytes, bytes, side)};
    table_of(Isa::ref).requantize(g);
    g.c = got.place(1, bytes, bytes, side);
    kernel<requantize_args>(row)(g);
    if (!same_output(got, want, 1, bytes)) return;
  }
}

}  // namespace test
}  // namespace qgemm
