// Operations that do little to each byte, on one thread and data that L2 holds: GB/s of all that is read and written, beside a
// loop that only moves as many bytes (`percent` is the share of its rate). Each runs on the best instruction set path and on
// those below.
#include <algorithm>
#include <string>

#include "cpu/features.h"
#include "layer.h"
#include "loops.h"
#include "ops/eltwise.h"
#include "ops/images.h"
#include "ops/pool.h"
#include "turns.h"

namespace {

using qgemm_bench::random_bytes;
using qgemm_bench::Turns;

constexpr int64_t kRows = 2048, kColumns = 64;  // 128 KiB a stream

// f(a, b, y) reads `reads` bytes of a, as many of b if `two`, and writes `writes` to y.
template <class F>
void against_moving(benchmark::State& state, int64_t reads, bool two, int64_t writes, F f) {
  const auto isa = static_cast<qgemm::Isa>(state.range(0));
  if (!qgemm::isa_available(isa)) return state.SkipWithError("this CPU cannot run the path");
  omp_set_num_threads(1);
  qgemm::force_isa(qgemm::isa_name(isa));
  const int64_t pitch = (reads + 255) / 256 * 256;
  qgemm::Scratch<uint8_t> memory;
  uint8_t *a = memory.get(2 * pitch + writes), *b = a + pitch, *y = b + pitch;
  const std::vector<uint8_t> noise = random_bytes(2 * pitch);
  std::copy(noise.begin(), noise.end(), a);
  Turns turns;
  const size_t own = turns.add([=] { f(a, b, y); });
#if QGEMM_X86
  size_t move = 0;
  if (qgemm::cpu_features().avx512f) move = turns.add([=] { qgemm_bench::move_avx512(a, reads, two ? b : nullptr, y, writes); });
#endif
  turns.run(state);
  const double moved = double(reads) * (two ? 2 : 1) + double(writes);
  state.SetLabel(qgemm::isa_name(isa));
  state.counters["GBs"] = moved / turns.best(own) * 1e-9;
#if QGEMM_X86
  if (move) state.counters["percent"] = 100 * turns.best(move) / turns.best(own);
#endif
  qgemm::force_isa(nullptr);
}

// kRows x kColumns bytes of each stream; `streams` are read.
template <class F>
void against_moving(benchmark::State& state, int streams, F f) {
  against_moving(state, kRows * kColumns, streams == 2, kRows * kColumns, f);
}

const qgemm::Encoding8 kA{0.02f, 120}, kB{0.03f, 7};

qgemm::OutputSpec sum() {
  qgemm::OutputSpec out = qgemm_bench::output(qgemm::OutType::u8);
  out.scale = 0.04f;
  out.zero_point = 100;
  return out;
}

void lut(benchmark::State& state) {
  const std::vector<uint8_t> table = random_bytes(256);
  against_moving(state, 1,
                 [&](const uint8_t* a, const uint8_t*, uint8_t* y) { qgemm::lut(a, table.data(), y, kRows * kColumns); });
}
void add(benchmark::State& state) {
  const qgemm::OutputSpec out = sum();
  against_moving(state, 2,
                 [&](const uint8_t* a, const uint8_t* b, uint8_t* y) { qgemm::add(a, kA, b, kB, y, kRows * kColumns, out); });
}
// The same by tables, for encodings that have them (those above tie at every fourth pair).
void add_tabled(benchmark::State& state) {
  qgemm::OutputSpec out = sum();
  out.scale = 0.0383f;
  const auto tables = qgemm::sum_tables(kA, kB, out);
  if (!tables) return state.SkipWithError("these encodings have no tables");
  against_moving(state, 2, [&](const uint8_t* a, const uint8_t* b, uint8_t* y) {
    qgemm::add({a, kColumns, kA}, {b, kColumns, kB}, y, kColumns, kRows, kColumns, out, tables.get());
  });
}
void mul(benchmark::State& state) {
  const qgemm::OutputSpec out = sum();
  against_moving(state, 2, [&](const uint8_t* a, const uint8_t* b, uint8_t* y) {
    qgemm::mul({a, kColumns, kA}, {b, kColumns, kB}, y, kColumns, kRows, kColumns, out);
  });
}
// A factor per channel, as squeeze-excite has it.
void mul_channels(benchmark::State& state) {
  const qgemm::OutputSpec out = sum();
  against_moving(state, 1, [&](const uint8_t* a, const uint8_t* b, uint8_t* y) {
    qgemm::mul({a, kColumns, kA}, {b, kColumns, kB, kRows}, y, kColumns, kRows, kColumns, out);
  });
}
// The same by one product, for encodings that allow it.
void mul_channels_factors(benchmark::State& state) {
  qgemm::OutputSpec out = sum();
  out.scale = 0.0383f;
  const auto factors = qgemm::product_factors(kA, kB, out);
  if (!factors) return state.SkipWithError("these encodings have no factors");
  against_moving(state, 1, [&](const uint8_t* a, const uint8_t* b, uint8_t* y) {
    qgemm::mul({a, kColumns, kA}, {b, kColumns, kB, kRows}, y, kColumns, kRows, kColumns, out, factors.get());
  });
}

// Pools and moves of images.
using Shape = qgemm::ImageShape;

qgemm::Window window(const Shape& s, int64_t kernel, int64_t stride, int64_t padding) {
  qgemm::Window w;
  w.batch = s.batch;
  w.h = s.h;
  w.w = s.w;
  w.c = s.c;
  w.kh = w.kw = kernel;
  w.stride_h = w.stride_w = stride;
  w.top = w.left = w.bottom = w.right = padding;
  return w;
}
int64_t bytes_of(const Shape& s) { return s.batch * s.h * s.w * s.c; }

void max_pool(benchmark::State& state, Shape s, int64_t kernel, int64_t stride, int64_t padding) {
  const qgemm::Window w = window(s, kernel, stride, padding);
  against_moving(state, bytes_of(s), false, w.out_h() * w.out_w() * s.c,
                 [&](const uint8_t* x, const uint8_t*, uint8_t* y) { qgemm::max_pool2d(w, x, y); });
}
void average(benchmark::State& state, Shape s, int64_t kernel, int64_t stride, int64_t padding, bool include,
             const qgemm::OutputSpec& out, bool prepared = true) {
  const qgemm::Window w = window(s, kernel, stride, padding);
  const auto ends = prepared ? qgemm::average_ends(w, kA, include, out) : nullptr;
  against_moving(state, bytes_of(s), false, w.out_h() * w.out_w() * s.c, [&](const uint8_t* x, const uint8_t*, uint8_t* y) {
    qgemm::avg_pool2d(w, x, kA, include, y, out, 0, ends.get());
  });
}
qgemm::OutputSpec averages() {
  qgemm::OutputSpec out = qgemm_bench::output(qgemm::OutType::u8);
  out.scale = 0.017f;
  return out;
}
void average_pool(benchmark::State& state, Shape s, int64_t kernel, int64_t stride, int64_t padding, bool include) {
  average(state, s, kernel, stride, padding, include, averages());
}
// To the grid that the bytes have.
void average_pool_same(benchmark::State& state, Shape s, int64_t kernel, int64_t stride, int64_t padding) {
  qgemm::OutputSpec out = averages();
  out.scale = kA.scale;
  out.zero_point = kA.zero_point;
  average(state, s, kernel, stride, padding, true, out);
}
// By one factor: 16 bits have no bounds.
void average_pool_factor(benchmark::State& state, Shape s, int64_t kernel, int64_t stride, int64_t padding) {
  qgemm::OutputSpec out = averages();
  out.lo = 1;
  average(state, s, kernel, stride, padding, true, out);
}
void average_pool_products(benchmark::State& state, Shape s, int64_t kernel, int64_t stride, int64_t padding) {
  average(state, s, kernel, stride, padding, true, averages(), false);
}
void global_average(benchmark::State& state, Shape s) { average_pool(state, s, s.h, 1, 0, true); }

void resize_nearest(benchmark::State& state, Shape s) {
  std::vector<int32_t> at(static_cast<size_t>(2 * s.w));
  for (size_t i = 0; i < at.size(); ++i) at[i] = static_cast<int32_t>(i / 2);
  against_moving(state, bytes_of(s), false, 4 * bytes_of(s), [&](const uint8_t* x, const uint8_t*, uint8_t* y) {
    qgemm::resize_nearest(x, s, 2 * s.h, 2 * s.w, at.data(), at.data(), y);
  });
}
void resize_linear(benchmark::State& state, Shape s) {
  std::vector<int32_t> lo, hi;
  std::vector<float> t;
  for (int32_t i = 0; i < 2 * s.w; ++i) {  // half-pixel centres
    lo.push_back(std::max((i - 1) / 2, 0));
    hi.push_back(std::min((i + 1) / 2, static_cast<int32_t>(s.w) - 1));
    t.push_back(i % 2 ? 0.25f : i ? 0.75f : 0.0f);
  }
  const qgemm::LinearAxis axis{2 * s.w, lo.data(), hi.data(), t.data()};
  qgemm::OutputSpec out = qgemm_bench::output(qgemm::OutType::u8);
  out.scale = kA.scale;
  out.zero_point = kA.zero_point;
  against_moving(state, bytes_of(s), false, 4 * bytes_of(s),
                 [&](const uint8_t* x, const uint8_t*, uint8_t* y) { qgemm::resize_linear(x, s, kA, axis, axis, y, out); });
}
void pixel_shuffle(benchmark::State& state, Shape s, bool channels_first) {
  against_moving(state, bytes_of(s), false, bytes_of(s),
                 [&](const uint8_t* x, const uint8_t*, uint8_t* y) { qgemm::depth_to_space(x, s, 2, channels_first, y); });
}
void pixel_unshuffle(benchmark::State& state, Shape s) {
  against_moving(state, bytes_of(s), false, bytes_of(s),
                 [&](const uint8_t* x, const uint8_t*, uint8_t* y) { qgemm::space_to_depth(x, s, 2, true, y); });
}
void channel_shuffle(benchmark::State& state, Shape s, int groups) {
  std::vector<int32_t> index;
  for (int i = 0; i < s.c; ++i) index.push_back(i % groups * static_cast<int>(s.c) / groups + i / groups);
  against_moving(state, bytes_of(s), false, bytes_of(s), [&](const uint8_t* x, const uint8_t*, uint8_t* y) {
    qgemm::permute_channels(x, s.h * s.w, s.c, index.data(), y);
  });
}
void pad(benchmark::State& state, Shape s) {
  against_moving(state, bytes_of(s), false, (s.h + 2) * (s.w + 2) * s.c,
                 [&](const uint8_t* x, const uint8_t*, uint8_t* y) { qgemm::pad_image(x, s, 1, 1, 1, 1, 120, y); });
}

void paths(benchmark::internal::Benchmark* b) {
  b->ArgNames({"path"})->UseRealTime();
  for (int isa = qgemm::kIsaCount - 1; isa > 0; --isa) b->Args({isa});
}
BENCHMARK(lut)->Apply(paths);
BENCHMARK(add)->Apply(paths);
BENCHMARK(add_tabled)->Apply(paths);
BENCHMARK(mul)->Apply(paths);
BENCHMARK(mul_channels)->Apply(paths);
BENCHMARK(mul_channels_factors)->Apply(paths);
BENCHMARK_CAPTURE(max_pool, 3x3s2_56x56x64, Shape{1, 56, 56, 64}, 3, 2, 1)->Apply(paths);
BENCHMARK_CAPTURE(max_pool, 3x3s2_28x28x256, Shape{1, 28, 28, 256}, 3, 2, 1)->Apply(paths);
BENCHMARK_CAPTURE(max_pool, 3x3s2_56x56x24, Shape{1, 56, 56, 24}, 3, 2, 1)->Apply(paths);
BENCHMARK_CAPTURE(max_pool, 3x3_28x28x192, Shape{1, 28, 28, 192}, 3, 1, 1)->Apply(paths);
BENCHMARK_CAPTURE(max_pool, 3x3_56x56x24, Shape{1, 56, 56, 24}, 3, 1, 1)->Apply(paths);
BENCHMARK_CAPTURE(max_pool, 2x2s2_56x56x24, Shape{1, 56, 56, 24}, 2, 2, 0)->Apply(paths);
BENCHMARK_CAPTURE(max_pool, 3x3_56x56x32, Shape{1, 56, 56, 32}, 3, 1, 1)->Apply(paths);
BENCHMARK_CAPTURE(max_pool, 5x5_14x14x256, Shape{1, 14, 14, 256}, 5, 1, 2)->Apply(paths);
BENCHMARK_CAPTURE(max_pool, 2x2s2_56x56x64, Shape{1, 56, 56, 64}, 2, 2, 0)->Apply(paths);
BENCHMARK_CAPTURE(average_pool, 2x2s2_56x56x64, Shape{1, 56, 56, 64}, 2, 2, 0, true)->Apply(paths);
BENCHMARK_CAPTURE(average_pool, 2x2s2_28x28x256, Shape{1, 28, 28, 256}, 2, 2, 0, true)->Apply(paths);
BENCHMARK_CAPTURE(average_pool, 2x2s2_56x56x24, Shape{1, 56, 56, 24}, 2, 2, 0, true)->Apply(paths);
BENCHMARK_CAPTURE(average_pool, 3x3_28x28x192_padding, Shape{1, 28, 28, 192}, 3, 1, 1, true)->Apply(paths);
BENCHMARK_CAPTURE(average_pool, 3x3_28x28x192_no_padding, Shape{1, 28, 28, 192}, 3, 1, 1, false)->Apply(paths);
BENCHMARK_CAPTURE(average_pool, 3x3s2_56x56x64_no_padding, Shape{1, 56, 56, 64}, 3, 2, 1, false)->Apply(paths);
BENCHMARK_CAPTURE(average_pool_same, 2x2s2_56x56x64, Shape{1, 56, 56, 64}, 2, 2, 0)->Apply(paths);
BENCHMARK_CAPTURE(average_pool_same, 3x3_28x28x192, Shape{1, 28, 28, 192}, 3, 1, 1)->Apply(paths);
BENCHMARK_CAPTURE(average_pool_same, 3x3s2_56x56x64, Shape{1, 56, 56, 64}, 3, 2, 1)->Apply(paths);
BENCHMARK_CAPTURE(average_pool_factor, 2x2s2_56x56x64, Shape{1, 56, 56, 64}, 2, 2, 0)->Apply(paths);
BENCHMARK_CAPTURE(average_pool_factor, 3x3_28x28x192, Shape{1, 28, 28, 192}, 3, 1, 1)->Apply(paths);
BENCHMARK_CAPTURE(average_pool_factor, 3x3s2_56x56x64, Shape{1, 56, 56, 64}, 3, 2, 1)->Apply(paths);
BENCHMARK_CAPTURE(average_pool_products, 2x2s2_56x56x64, Shape{1, 56, 56, 64}, 2, 2, 0)->Apply(paths);
BENCHMARK_CAPTURE(average_pool_products, 3x3_28x28x192, Shape{1, 28, 28, 192}, 3, 1, 1)->Apply(paths);
BENCHMARK_CAPTURE(average_pool_products, 3x3s2_56x56x64, Shape{1, 56, 56, 64}, 3, 2, 1)->Apply(paths);
BENCHMARK_CAPTURE(global_average, 7x7x2048, Shape{1, 7, 7, 2048})->Apply(paths);
BENCHMARK_CAPTURE(global_average, 14x14x1024, Shape{1, 14, 14, 1024})->Apply(paths);
BENCHMARK_CAPTURE(global_average, 28x28x240, Shape{1, 28, 28, 240})->Apply(paths);
BENCHMARK_CAPTURE(resize_nearest, 2x_28x28x64, Shape{1, 28, 28, 64})->Apply(paths);
BENCHMARK_CAPTURE(resize_nearest, 2x_56x56x24, Shape{1, 56, 56, 24})->Apply(paths);
BENCHMARK_CAPTURE(resize_nearest, 2x_28x28x128, Shape{1, 28, 28, 128})->Apply(paths);
BENCHMARK_CAPTURE(resize_nearest, 2x_14x14x256, Shape{1, 14, 14, 256})->Apply(paths);
BENCHMARK_CAPTURE(resize_linear, 2x_28x28x64, Shape{1, 28, 28, 64})->Apply(paths);
BENCHMARK_CAPTURE(resize_linear, 2x_56x56x24, Shape{1, 56, 56, 24})->Apply(paths);
BENCHMARK_CAPTURE(pixel_shuffle, 2_28x28x256_torch, Shape{1, 28, 28, 256}, true)->Apply(paths);
BENCHMARK_CAPTURE(pixel_shuffle, 2_28x28x256_onnx, Shape{1, 28, 28, 256}, false)->Apply(paths);
BENCHMARK_CAPTURE(pixel_shuffle, 2_112x112x12_torch, Shape{1, 112, 112, 12}, true)->Apply(paths);
BENCHMARK_CAPTURE(pixel_unshuffle, 2_56x56x64, Shape{1, 56, 56, 64})->Apply(paths);
BENCHMARK_CAPTURE(pixel_unshuffle, 2_224x224x3, Shape{1, 224, 224, 3})->Apply(paths);
BENCHMARK_CAPTURE(channel_shuffle, 28x28x240_g3, Shape{1, 28, 28, 240}, 3)->Apply(paths);
BENCHMARK_CAPTURE(channel_shuffle, 28x28x116_g2, Shape{1, 28, 28, 116}, 2)->Apply(paths);
BENCHMARK_CAPTURE(pad, 1_56x56x64, Shape{1, 56, 56, 64})->Apply(paths);
BENCHMARK_CAPTURE(pad, 1_56x56x24, Shape{1, 56, 56, 24})->Apply(paths);

}  // namespace

BENCHMARK_MAIN();
