// Testers of the kernels of convolution and pooling that are not GEMM: depthwise tiles, pixels in lanes, maxima, averages, sums,
// and the end of an average.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <string>

#include "kernel_testers.h"
#include "ops/pool.h"

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
  TapRows rows(1 << 14);
  Guarded weights(5 * 2 * 2 * 20 * 256), pointers(8 * 64), scratch(1 << 19);
  Output got(1 << 17), want(1 << 17);
  for (int i = 0; i < cases(8000);) {
    const Side side = rng.chance(50) ? Side::start : Side::end;
    depthwise_args g{};
    g.channels = any_channels(rng);
    if (rng.chance(30)) g.channels += 64 * static_cast<int>(rng.between(1, 4));
    const int64_t blocks = (g.channels + 63) / 64;
    g.bundles = static_cast<int>(rng.pick<int64_t>({1, 1, 1, 2, 2, 3}));
    g.taps = static_cast<int>(rng.pick<int64_t>({1, 2, 3, 3, 3, 4, 5, 6}));
    g.splits = rng.chance(80) ? 1 : 2;
    g.outputs = static_cast<int>(rng.pick<int64_t>({1, 2, 2, 3, 4, 5}));
    g.advance = static_cast<ptrdiff_t>(rng.pick<int64_t>({1, 1, 1, 2, 2, 3, 4 * g.bundles}));
    g.height = static_cast<int>(4 * g.bundles - rng.between(0, 3));
    g.stride = rng.pick<int64_t>({1, 1, 1, 2, 2, 3, 5});
    g.dilation = rng.pick<int64_t>({1, 1, 1, 1, 2, 3, 4, 6});
    g.shift = rng.pick<int64_t>({0, 0, 0, 1, 2});
    g.columns = rng.pick<int64_t>({1, 2, 7, 8, 14, 28, rng.between(1, 40)});
    g.first = rng.pick<int64_t>({0, -1, -2, -7, rng.between(-9, 9)});
    g.pixels = static_cast<int>(rng.pick<int64_t>({1, 2, 3, 4, 5, 7, 8, 9, 13, 14, rng.between(1, 40)}));
    g.pixel = g.channels + rng.pick<int64_t>({0, 0, 0, 1, 64, 200});
    g.padding = static_cast<uint8_t>(rng.between(0, 255));
    g.far = rng.chance(50);
    const int64_t row_bytes = (g.columns - 1) * g.pixel + g.channels;
    const int64_t form = int64_t(g.splits) * g.bundles * g.taps * 256;
    const bool below = g.height < 4 * g.bundles && g.shift == 0 && rng.chance(80);
    g.block = static_cast<ptrdiff_t>((below ? 2 : 1) * form);
    g.below = below ? static_cast<ptrdiff_t>(form) : 0;
    const int64_t b_bytes = blocks * g.block;
    const int64_t reach = (g.taps - 1) * g.dilation / g.stride;
    const int64_t least =
        64 * ((g.bundles * g.taps + 15) / 16) + 256 * g.bundles * std::min<int64_t>(g.stride, g.taps) * (reach + 16);
    g.scratch_bytes = least + rng.pick<int64_t>({0, 64, 4096, 16384, 32768});
    if (row_bytes > (1 << 14) || g.scratch_bytes > (1 << 19) || g.outputs * g.pixels * int64_t(g.channels) > (1 << 15)) continue;
    ++i;
    const Mood a_mood = any_mood(rng), b_mood = any_mood(rng);
    std::vector<const uint8_t*> a(static_cast<size_t>((g.outputs - 1) * g.advance + 4 * g.bundles));
    for (size_t r = 0; r < a.size(); ++r) {
      a[r] = rows.place(rng, a_mood, r, row_bytes, side);
      if (r && rng.chance(10)) a[r] = a[r - 1];  // rows outside the image share one row of zero points
    }
    int8_t* b = weights.place<int8_t>(static_cast<size_t>(b_bytes), side);
    fill(rng, b_mood, b, b_bytes);
    // Rows behind a filter's height are zero, and the lower form is the upper one, a row further down.
    const int64_t bundle = int64_t(g.taps) * 256;
    for (int64_t at = 0; at < b_bytes; at += 4)
      for (int64_t i = 0; i < 4; ++i) {
        const int64_t in_form = at % g.block % form, part = in_form / (g.bundles * bundle),
                      r = in_form / bundle % g.bundles * 4 + i;
        const bool lower = at % g.block >= form;
        if (lower && r >= 1 && r <= g.height) {
          const int64_t from = part * g.bundles * bundle + (r - 1) / 4 * bundle + in_form % bundle + (r - 1) % 4;
          b[at + i] = b[at / g.block * g.block + from];
        } else if (lower || r >= g.height) {
          b[at + i] = 0;
        }
      }
    g.rows = pointers.place(a, side);
    g.b = b;
    g.scratch = scratch.place<uint8_t>(static_cast<size_t>((g.scratch_bytes + 63) / 64 * 64), side);
    g.col = 64 * static_cast<int>(rng.between(0, 1));
    const Epilogue& e = maker.make(rng, 1, g.col + 64 * blocks, 255.0 * 128.0 * 3.0, false, false, side);
    const int64_t size = element_size(e.out);
    // Rows side by side, as those of an image, or one after the other.
    const int64_t total = int64_t(g.outputs) * g.pixels;
    g.ep = &e;
    g.ldc = (g.channels + rng.pick<int64_t>({0, 0, 0, 1, 7})) * size;
    g.ldr = g.ldc * g.pixels;
    if (total * g.ldc > (1 << 17) - 8192) continue;
    now_testing(
        "%s channels=%d bundles=%d height=%d taps=%d splits=%d outputs=%d advance=%d below=%d pixels=%d stride=%d dilation=%d "
        "shift=%d first=%d columns=%d "
        "pixel=%d col=%d ldc=%d scratch=%d %s",
        row.name, g.channels, g.bundles, g.height, g.taps, g.splits, g.outputs, int(g.advance), int(g.below), g.pixels,
        int(g.stride), int(g.dilation), int(g.shift), int(g.first), int(g.columns), int(g.pixel), g.col, int(g.ldc),
        int(g.scratch_bytes), maker.describe().c_str());
    g.c = want.place(total, g.channels * size, g.ldc, side);
    table_of(Isa::ref).depthwise(g);
    g.c = got.place(total, g.channels * size, g.ldc, side);
    kernel<depthwise_args>(row)(g);
    if (!same_output(got, want, total, g.channels * size)) return;
  }
}

namespace {

// A window over rows of random bytes. False where it would not fit the memory it is tried in.
bool any_pool(Rng& rng, TapRows& rows, Guarded& pointers, Side side, pool_args& g) {
  g.channels = static_cast<int>(
      rng.pick<int64_t>({0, 1, 16, 24, 63, 64, 65, 128, 4 * rng.between(1, 16), rng.between(1, 200), 256, 257, 330}));
  g.height = static_cast<int>(rng.pick<int64_t>({0, 1, 2, 3, 3, 4, 5, 7}));
  g.taps = static_cast<int>(rng.pick<int64_t>({1, 2, 2, 3, 3, 3, 4, 5, 5, 9, 60}));
  g.stride = rng.pick<int64_t>({1, 1, 2, 2, 2, 3});
  g.dilation = rng.pick<int64_t>({1, 1, 1, 2, 3});
  g.columns = rng.pick<int64_t>({1, 2, 7, 14, rng.between(1, 40), 60});
  g.first = rng.pick<int64_t>({0, 0, -1, -1, -2, rng.between(-9, 9)});
  g.pixels = static_cast<int>(rng.pick<int64_t>({1, 2, 7, 14, rng.between(1, 40)}));
  g.pixel = g.channels + (rng.chance(50) ? 0 : rng.between(1, 20));
  g.ldo = g.channels + (rng.chance(50) ? 0 : rng.between(1, 20));
  g.ldr = g.pixels * g.ldo;
  g.outputs = static_cast<int>(rng.pick<int64_t>({1, 1, 2, 3}));
  const int64_t row_bytes = (g.columns - 1) * g.pixel + g.channels, bytes = g.outputs * g.ldr;
  if (row_bytes > 1 << 14 || bytes > 8192) return false;
  std::vector<const uint8_t*> a(static_cast<size_t>(g.outputs * g.height));
  for (size_t r = 0; r < a.size(); ++r) a[r] = rows.place(rng, any_mood(rng), r, row_bytes, side);
  if (rng.chance(60)) {  // outputs below each other, whose windows share rows
    const auto height = static_cast<size_t>(g.height), down = static_cast<size_t>(rng.between(1, 2));
    for (size_t r = height; r < a.size(); ++r)
      if (r % height + down < height) a[r] = a[r - height + down];
  }
  g.rows = pointers.place(a, side);
  return true;
}

std::string text_of(const pool_args& g) {
  char text[200];
  std::snprintf(text, sizeof text,
                "channels=%d outputs=%d height=%d taps=%d stride=%d dilation=%d columns=%d first=%d pixels=%d pixel=%d ldo=%d",
                g.channels, g.outputs, g.height, g.taps, int(g.stride), int(g.dilation), int(g.columns), int(g.first), g.pixels,
                int(g.pixel), int(g.ldo));
  return text;
}

}  // namespace

void test_lines(const KernelRow& row) {
  Rng rng(42);
  EpilogueMaker maker;
  TapRows memory(1 << 13);
  Guarded weights(7 * 4 * 64), pointers(8 * 64);
  Output got(1 << 16), want(1 << 16);
  for (int i = 0; i < cases(12000); ++i) {
    const Side side = rng.chance(50) ? Side::start : Side::end;
    lines_args g{};
    const bool wide = rng.chance(30);
    g.taps = wide ? 5 : 3;
    g.kc = wide ? 5 : rng.chance(60) ? 9 : 6;
    g.step = static_cast<ptrdiff_t>(rng.pick<int64_t>({g.kc / g.taps, 2 * g.kc / g.taps, rng.between(1, (128 - g.kc) / 15)}));
    g.pixels = static_cast<ptrdiff_t>(rng.pick<int64_t>({0, 1, 15, 16, 17, 32, rng.between(0, 70)}));
    g.outputs = static_cast<int32_t>(rng.between(0, 4));
    g.advance = static_cast<ptrdiff_t>(rng.between(1, 3));
    g.n = rng.chance(30) ? 24 : any_channels(rng);
    g.width = (g.n + 15) / 16 * 16;
    g.padding = static_cast<uint8_t>(rng.between(0, 255));
    g.first = static_cast<ptrdiff_t>(rng.pick<int64_t>({0, -3, rng.between(-80, 20)}));
    const int64_t reach = g.pixels ? (g.pixels - 1) * g.step + g.kc + g.first : 0;
    g.bytes = static_cast<ptrdiff_t>(std::max<int64_t>(0, reach + rng.pick<int64_t>({0, -3, rng.between(-80, 80)})));
    const Mood a_mood = any_mood(rng);
    std::vector<const uint8_t*> rows;
    for (int64_t r = 0; r < (g.outputs - 1) * g.advance + g.taps; ++r)
      rows.push_back(memory.place(rng, a_mood, static_cast<size_t>(r), g.bytes, side));
    g.rows = pointers.place(rows, side);
    const int64_t rest = g.kc % 4 * g.taps, whole = g.kc / 4 * 4 * g.taps, rounded = whole + (rest + 3) / 4 * 4;
    int8_t* b = weights.place<int8_t>(static_cast<size_t>(rounded * g.width), side);
    fill(rng, any_mood(rng), b, rounded * g.width);
    for (int64_t k = whole + rest; k < rounded; ++k)  // zeros behind what is joined
      for (int64_t j = 0; j < g.width; ++j) b[(k / 4 * g.width + j) * 4 + k % 4] = 0;
    g.b = b;
    g.col = 64 * static_cast<int32_t>(rng.between(0, 1));
    Epilogue e = maker.make(rng, 1, g.col + g.width, 255.0 * 128.0 * std::sqrt(double(g.taps) * g.kc), false, false, side);
    if (element_size(e.out) > 1) e.out = OutType::u8;
    g.ep = &e;
    g.ldc = g.n + (rng.chance(60) ? 0 : rng.between(1, 9));
    g.ldr = g.pixels * g.ldc;
    now_testing("%s taps=%d kc=%d step=%d pixels=%d outputs=%d advance=%d first=%d bytes=%d n=%d col=%d ldc=%d %s", row.name,
                g.taps, g.kc, static_cast<int>(g.step), static_cast<int>(g.pixels), g.outputs, static_cast<int>(g.advance),
                static_cast<int>(g.first), static_cast<int>(g.bytes), g.n, g.col, static_cast<int>(g.ldc),
                maker.describe().c_str());
    const int64_t all = g.outputs * g.pixels;
    g.c = want.place(all, g.n, g.ldc, side);
    table_of(Isa::ref).lines(g);
    g.c = got.place(all, g.n, g.ldc, side);
    kernel<lines_args>(row)(g);
    if (!same_output(got, want, all, g.n)) return;
  }
}

void test_max_pool(const KernelRow& row) {
  Rng rng(12);
  TapRows rows(1 << 14);
  Guarded pointers(8 * 64);
  Output got(1 << 14), want(1 << 14);
  for (int i = 0; i < cases(5000);) {
    const Side side = rng.chance(50) ? Side::start : Side::end;
    max_pool_args g{};
    if (!any_pool(rng, rows, pointers, side, g)) continue;
    ++i;
    g.advance = static_cast<int>(rng.pick<int64_t>({g.height, g.height, std::min(g.height, 1), rng.between(0, g.height)}));
    now_testing("%s %s advance=%d", row.name, text_of(g).c_str(), g.advance);
    g.out = want.place(g.outputs * g.pixels, g.channels, g.ldo, side);
    table_of(Isa::ref).max_pool(g);
    g.out = got.place(g.outputs * g.pixels, g.channels, g.ldo, side);
    kernel<max_pool_args>(row)(g);
    if (!same_output(got, want, g.outputs * g.pixels, g.channels)) return;
  }
}

namespace {

// A grid on which one factor is exact, so that two products and one give the same bytes: the scale becomes a power of two, and no
// average ties.
void give_factor(average_pool_args& g, float& whole) {
  g.inv_scale = 1.0f;
  whole = 0.15625f;  // 5 / 32: sums of an odd multiple of 16 tie, and round to even, which the zero point must not change
  g.zero_point &= ~1;
  g.factor = whole;
}

}  // namespace

namespace {

// A window that is the whole of an image whose bytes follow each other.
bool any_image(Rng& rng, Guarded& image, Guarded& pointers, Side side, pool_args& g) {
  g.channels = static_cast<int>(rng.pick<int64_t>({16, 32, 48, 80, 96, 112, 240, 336, 480, 576, 640, 1024, 2048, 2064}));
  g.height = static_cast<int>(rng.pick<int64_t>({1, 2, 7, 8, 14, rng.between(1, 17)}));
  g.taps = static_cast<int>(rng.pick<int64_t>({1, 4, 7, 8, 14, rng.between(1, 70)}));
  g.columns = g.taps;
  g.stride = g.dilation = 1;
  g.pixels = g.outputs = 1;
  g.pixel = g.channels + (rng.chance(70) ? 0 : 64);
  g.ldo = g.ldr = g.channels;
  const int64_t bytes = (int64_t(g.height) * g.columns - 1) * g.pixel + g.channels;
  if (bytes > 1 << 19) return false;
  const uint8_t* first = image.place<uint8_t>(static_cast<size_t>(bytes), side);
  fill(rng, any_mood(rng), const_cast<uint8_t*>(first), bytes);
  std::vector<const uint8_t*> a;
  for (int r = 0; r < g.height; ++r) a.push_back(first + r * g.columns * g.pixel);
  g.rows = pointers.place(a, side);
  return true;
}

// The driver's ends for this window, as the window of an image whose padding leaves any part of it; its scales with them.
std::shared_ptr<const AverageEnds> give_ends(Rng& rng, average_pool_args& g, std::vector<float>& scale_of) {
  Window w{};
  w.batch = w.stride_h = w.stride_w = w.dilation_h = w.dilation_w = w.c = 1;
  w.kh = g.height;
  w.kw = g.taps;
  w.top = w.bottom = w.kh - 1;
  w.left = w.right = w.kw - 1;
  w.h = w.w = 60;
  const Encoding8 e{rng.pick({0.02f, rng.uniform(0.001f, 1.0f)}), g.x_zero_point};
  OutputSpec out{};
  out.type = OutType::u8;
  out.hi = 255;
  out.scale = e.scale;
  out.zero_point = e.zero_point;
  if (rng.chance(60)) {
    out.scale *= rng.uniform(0.4f, 1.5f);
    if (rng.chance(70)) out.zero_point = static_cast<int32_t>(rng.between(0, 255));
  }
  const bool include = rng.chance(50);
  for (int t = 1; t <= g.taps; ++t)
    scale_of[static_cast<size_t>(t)] = e.scale / static_cast<float>(g.height * (include ? g.taps : t));
  g.inv_scale = 1.0f / out.scale;
  g.zero_point = out.zero_point;
  g.lo = 0;
  g.hi = 255;
  g.flip = 0;
  g.bounded = true;
  const auto ends = average_ends(w, e, include, out);
  g.factor = (*ends)[static_cast<size_t>(g.height)].factor;
  g.words = (*ends)[static_cast<size_t>(g.height)].words.data();
  return ends;
}

}  // namespace

void test_average_pool(const KernelRow& row) {
  Rng rng(31);
  TapRows rows(1 << 14);
  Guarded pointers(8 * 64), scales(4 * 80), image(1 << 19);
  Output got(1 << 14), want(1 << 14);
  int forms[4] = {};  // windows of all their columns with an end of this form
  for (int i = 0; i < cases(6000);) {
    const Side side = rng.chance(50) ? Side::start : Side::end;
    average_pool_args g{};
    if (rng.chance(10) ? !any_image(rng, image, pointers, side, g) : !any_pool(rng, rows, pointers, side, g)) continue;
    ++i;
    g.x_zero_point = static_cast<int32_t>(rng.pick<int64_t>({0, 255, rng.between(0, 255)}));
    const float scale = rng.pick({0.02f, 0.5f, rng.uniform(0.001f, 3.0f)});
    std::vector<float> scale_of(static_cast<size_t>(g.taps + 1));
    const bool same = rng.chance(30);
    for (int t = 0; t <= g.taps; ++t) {
      const int count = g.height * (same ? g.taps : t);
      scale_of[static_cast<size_t>(t)] = count ? scale / static_cast<float>(count) : 0.0f;
    }
    // Also outputs so fine that the product leaves int32.
    g.inv_scale = rng.pick({1.0f / scale, 50.0f, rng.uniform(0.3f, 3.0f) / scale, 3e12f});
    g.lo = static_cast<int32_t>(rng.pick<int64_t>({0, 0, rng.between(0, 255)}));
    g.hi = static_cast<int32_t>(rng.pick<int64_t>({255, 255, rng.between(g.lo, 255)}));
    g.zero_point = static_cast<int32_t>(rng.between(0, 255));
    g.flip = rng.chance(20) ? 0x80 : 0;
    g.bounded = g.inv_scale < 1e6f && rng.chance(70);
    std::shared_ptr<const AverageEnds> ends;
    if (g.height > 0 && g.height * g.taps <= 9 && rng.chance(60))
      ends = give_ends(rng, g, scale_of);
    else if (rng.chance(30))
      give_factor(g, scale_of.back());
    const int form = g.words ? static_cast<int>(g.words[g.taps].form) : 0;
    ++forms[form];
    now_testing("%s %s zp=%d scale=%g inv=%g out_zp=%d [%d,%d] flip=%d bounded=%d factor=%g form=%d", row.name,
                text_of(g).c_str(), g.x_zero_point, double(scale_of.back()), double(g.inv_scale), g.zero_point, g.lo, g.hi,
                g.flip, g.bounded, double(g.factor), form);
    g.scale = scales.place(scale_of, side);
    g.out = want.place(g.outputs * g.pixels, g.channels, g.ldo, side);
    table_of(Isa::ref).average_pool(g);
    g.out = got.place(g.outputs * g.pixels, g.channels, g.ldo, side);
    kernel<average_pool_args>(row)(g);
    if (!same_output(got, want, g.outputs * g.pixels, g.channels)) return;
  }
  for (const int count : forms) EXPECT_GT(count, 0) << "a form of ends in 16 bits was never tried";
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

namespace {

// Float pixels at separate guarded addresses through `run(kernel, pointers, taps, channels, out)`, for the row and the reference.
template <class Args, class Run>
void test_float_pixels(const KernelRow& row, KernelFn<Args> reference, uint64_t seed, Run run) {
  Rng rng(seed);
  TapRows rows(4096);
  Guarded pointers(8 * 257);
  Output got(8192), want(8192);
  const std::vector<float> odd{0.0f, -0.0f, INFINITY, -INFINITY, NAN, -NAN, 3e38f, 1e-40f};
  for (int i = 0; i < cases(5000); ++i) {
    const Side side = rng.chance(50) ? Side::start : Side::end;
    const int channels = static_cast<int>(rng.pick<int64_t>({0, 1, 7, 8, 9, 15, 16, 17, 64, rng.between(0, 150)})),
              taps = static_cast<int>(rng.pick<int64_t>({0, 1, 2, 4, 9, 9, 49, 257}));
    const int strange = static_cast<int>(rng.pick<int64_t>({0, 0, 2, 30}));  // of a hundred values
    std::vector<const float*> a(static_cast<size_t>(taps));
    for (size_t t = 0; t < a.size(); ++t) {
      auto* p = reinterpret_cast<float*>(rows.place(rng, Mood::uniform, t, 4 * channels, side));
      for (int c = 0; c < channels; ++c) p[c] = rng.chance(strange) ? rng.pick(odd) : rng.uniform(-3, 3);
      a[t] = p;
    }
    now_testing("%s channels=%d taps=%d strange=%d", row.name, channels, taps, strange);
    const float* const* at = pointers.place(a, side);
    const double count = static_cast<double>(rng.pick<int64_t>({taps, taps + 3, 0}));
    run(reference, at, taps, channels, count, reinterpret_cast<float*>(want.place(1, 4 * channels, 4 * channels, side)));
    run(kernel<Args>(row), at, taps, channels, count, reinterpret_cast<float*>(got.place(1, 4 * channels, 4 * channels, side)));
    if (!same_output(got, want, 1, 4 * channels)) return;
  }
}

}  // namespace

void test_fdepthwise(const KernelRow& row) {
  Guarded weights(4 * 300 * 150), biases(4 * 150);
  test_float_pixels<fdepthwise_args>(row, table_of(Isa::ref).fdepthwise, 18,
                                     [&](auto f, auto a, int taps, int channels, double, float* out) {
                                       fdepthwise_args g{a, taps, channels, nullptr, nullptr, -1.0f, INFINITY, out};
                                       float* b = weights.place<float>(static_cast<size_t>(taps * channels), Side::end);
                                       float* bias = biases.place<float>(static_cast<size_t>(channels), Side::end);
                                       Rng same(static_cast<uint64_t>(taps * channels));
                                       for (int i = 0; i < taps * channels; ++i) b[i] = same.uniform(-2, 2);
                                       for (int i = 0; i < channels; ++i) bias[i] = same.uniform(-2, 2);
                                       g.b = b;
                                       g.bias = bias;
                                       f(g);
                                     });
}

void test_fmax_pool(const KernelRow& row) {
  test_float_pixels<fmax_pool_args>(row, table_of(Isa::ref).fmax_pool, 15,
                                    [](auto f, auto a, int taps, int channels, double, float* out) {
                                      f({a, taps, channels, out});
                                    });
}

void test_mean_pool(const KernelRow& row) {
  test_float_pixels<mean_pool_args>(row, table_of(Isa::ref).mean_pool, 16,
                                    [](auto f, auto a, int taps, int channels, double count, float* out) {
                                      f({a, taps, channels, count, taps % 2 == 0, out});
                                    });
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
