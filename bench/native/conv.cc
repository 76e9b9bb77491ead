// Convolutions and poolings of known networks through their drivers, u8 in and requantized u8 out, one image unless the name says
// otherwise. OMP_NUM_THREADS sets the threads. GOPS counts the multiply-adds of the definition (2 each), not what padding of
// channels or taps adds; poolings report bytes read and written.
#include "ops/conv.h"

#include <string>

#include "cpu/features.h"
#include "layer.h"
#include "loops.h"
#include "ops/pool.h"
#include "turns.h"

namespace {

using namespace qgemm_bench;

constexpr int64_t kPeakRounds = 2000;

struct Shape {
  const char* name;
  int64_t batch, h, w, groups, cin_g, cout_g, kh, kw, stride;
  bool weight_zero_points;
};

const Shape kShapes[] = {
    {"stem/7x7s2/224x224x3_64", 1, 224, 224, 1, 3, 64, 7, 7, 2, false},
    {"stem/3x3s2/224x224x3_32", 1, 224, 224, 1, 3, 32, 3, 3, 2, false},
    {"stem/3x3s2/224x224x3_24", 1, 224, 224, 1, 3, 24, 3, 3, 2, false},
    {"stem/3x3s2/224x224x3_16", 1, 224, 224, 1, 3, 16, 3, 3, 2, false},
    {"stem/3x3/224x224x1_64", 1, 224, 224, 1, 1, 64, 3, 3, 1, false},
    {"stem/4x4s4/224x224x3_96", 1, 224, 224, 1, 3, 96, 4, 4, 4, false},
    {"dense3x3/56x56x64_64", 1, 56, 56, 1, 64, 64, 3, 3, 1, false},
    {"dense3x3/28x28x128_128", 1, 28, 28, 1, 128, 128, 3, 3, 1, false},
    {"dense3x3/14x14x256_256", 1, 14, 14, 1, 256, 256, 3, 3, 1, false},
    {"dense3x3/7x7x512_512", 1, 7, 7, 1, 512, 512, 3, 3, 1, false},
    {"dense3x3s2/56x56x128_128", 1, 56, 56, 1, 128, 128, 3, 3, 2, false},
    {"dense3x3/64x64x32_32", 1, 64, 64, 1, 32, 32, 3, 3, 1, false},
    {"1x1/56x56x64_64", 1, 56, 56, 1, 64, 64, 1, 1, 1, false},
    {"1x1/56x56x64_256", 1, 56, 56, 1, 64, 256, 1, 1, 1, false},
    {"1x1/112x112x16_96", 1, 112, 112, 1, 16, 96, 1, 1, 1, false},
    {"1x1/56x56x144_24", 1, 56, 56, 1, 144, 24, 1, 1, 1, false},
    {"1x1/14x14x1024_256", 1, 14, 14, 1, 1024, 256, 1, 1, 1, false},
    {"1x1/7x7x512_2048", 1, 7, 7, 1, 512, 2048, 1, 1, 1, false},
    {"1x1s2/56x56x256_512", 1, 56, 56, 1, 256, 512, 1, 1, 2, false},
    {"depthwise3x3/112x112x96", 1, 112, 112, 96, 1, 1, 3, 3, 1, false},
    {"depthwise3x3/112x112x32", 1, 112, 112, 32, 1, 1, 3, 3, 1, false},
    {"depthwise3x3/56x56x144", 1, 56, 56, 144, 1, 1, 3, 3, 1, false},
    {"depthwise3x3/28x28x192", 1, 28, 28, 192, 1, 1, 3, 3, 1, false},
    {"depthwise3x3/14x14x576", 1, 14, 14, 576, 1, 1, 3, 3, 1, false},
    {"depthwise3x3/7x7x960", 1, 7, 7, 960, 1, 1, 3, 3, 1, false},
    {"depthwise3x3s2/112x112x96", 1, 112, 112, 96, 1, 1, 3, 3, 2, false},
    {"depthwise3x3s2/28x28x192", 1, 28, 28, 192, 1, 1, 3, 3, 2, false},
    {"depthwise5x5/28x28x240", 1, 28, 28, 240, 1, 1, 5, 5, 1, false},
    {"depthwise5x5/14x14x480", 1, 14, 14, 480, 1, 1, 5, 5, 1, false},
    {"depthwise5x5s2/56x56x144", 1, 56, 56, 144, 1, 1, 5, 5, 2, false},
    {"depthwise5x5/7x7x1152", 1, 7, 7, 1152, 1, 1, 5, 5, 1, false},
    {"depthwise7x7/56x56x96", 1, 56, 56, 96, 1, 1, 7, 7, 1, false},
    {"depthwise7x7/7x7x768", 1, 7, 7, 768, 1, 1, 7, 7, 1, false},
    {"depthwise1x31/400x256", 1, 1, 400, 256, 1, 1, 1, 31, 1, false},
    {"depthwise1x3/400x256", 1, 1, 400, 256, 1, 1, 1, 3, 1, false},
    {"depthwise3x3asymmetric/28x28x192", 1, 28, 28, 192, 1, 1, 3, 3, 1, true},
    {"grouped3x3/56x56x128_g32", 1, 56, 56, 32, 4, 4, 3, 3, 1, false},
    {"grouped3x3/28x28x256_g32", 1, 28, 28, 32, 8, 8, 3, 3, 1, false},
    {"grouped3x3/14x14x512_g32", 1, 14, 14, 32, 16, 16, 3, 3, 1, false},
    {"grouped3x3/7x7x1024_g32", 1, 7, 7, 32, 32, 32, 3, 3, 1, false},
    {"grouped1x1/28x28x240_g3", 1, 28, 28, 3, 80, 20, 1, 1, 1, false},
    {"conv1d/k5/400x80_512", 1, 1, 400, 1, 80, 512, 1, 5, 1, false},
    {"dense3x3/b8/14x14x256_256", 8, 14, 14, 1, 256, 256, 3, 3, 1, false},
};

qgemm::Window window_of(const Shape& s) {
  qgemm::Window g;
  g.batch = s.batch;
  g.h = s.h;
  g.w = s.w;
  g.c = s.groups * s.cin_g;
  g.kh = s.kh;
  g.kw = s.kw;
  g.stride_h = s.h > 1 ? s.stride : 1;
  g.stride_w = s.stride;
  if (s.stride < s.kh || s.kh == 1) {  // patches that do not overlap are not padded
    g.top = g.bottom = (s.kh - 1) / 2;
    g.left = g.right = (s.kw - 1) / 2;
  }
  return g;
}

size_t add_peak(Turns& turns, int64_t& ops) {
#if QGEMM_X86
  if (qgemm::cpu_features().avx512vnni) return turns.add([&] { ops = vnni_peak_round(kPeakRounds); });
#endif
  return 0;
}

void conv(benchmark::State& state, const Shape& s) {
  const qgemm::Window g = window_of(s);
  const int64_t n = s.groups * s.cout_g, k = s.cin_g * s.kh * s.kw;
  std::mt19937 random(1);
  std::vector<int8_t> weight(static_cast<size_t>(n * k));
  for (auto& w : weight) w = static_cast<int8_t>(random());
  const std::vector<float> scale(static_cast<size_t>(n), 0.01f), bias(static_cast<size_t>(n), 0.5f);
  const std::vector<int32_t> zero_point(static_cast<size_t>(n), 5);
  qgemm::PackSpec spec;
  spec.kind = s.groups > 1 && s.cin_g == 1 && s.cout_g == 1 ? qgemm::PackedKind::depthwise : qgemm::PackedKind::conv;
  spec.n = n;
  spec.groups = s.groups;
  spec.cin_g = s.cin_g;
  spec.kh = s.kh;
  spec.kw = s.kw;
  spec.weight = weight.data();
  spec.scale = scale.data();
  spec.scale_count = n;
  spec.bias = bias.data();
  if (s.weight_zero_points) spec.zero_point = zero_point.data();
  spec.x_scale = 0.02f;
  spec.x_zero_point = 120;
  qgemm::Scratch<uint8_t> packed;
  const int64_t bytes = qgemm::packed_bytes(spec);
  qgemm::pack(spec, packed.get(bytes));
  const qgemm::PackedView view = qgemm::view(packed.get(bytes), bytes);
  const int64_t inputs = g.batch * g.h * g.w * g.c, outputs = g.batch * g.out_h() * g.out_w() * n;
  qgemm::Scratch<uint8_t> in, result;  // aligned, as tensors are
  uint8_t *x = in.get(inputs), *y = result.get(outputs);
  std::memcpy(x, random_bytes(inputs).data(), static_cast<size_t>(inputs));
  const qgemm::OutputSpec out = output(qgemm::OutType::u8);
  Turns turns;
  const size_t layer = turns.add([&] { qgemm::conv2d(view, g, x, y, out); });
  int64_t ops = 0;
  const size_t peak = add_peak(turns, ops);
  turns.run(state);
  const double rate = 2.0 * double(outputs) * double(k) / turns.best(layer) * 1e-9;
  state.counters["GOPS"] = rate;
  if (peak) state.counters["percent"] = 100 * rate / (double(ops) / turns.best(peak) * 1e-9);
}

// Bytes that a pooling reads and writes, over its time, beside memcpy of as many.
template <class F>
void pooling(benchmark::State& state, const qgemm::Window& g, F&& call) {
  const int64_t inputs = g.batch * g.h * g.w * g.c, outputs = g.batch * g.out_h() * g.out_w() * g.c;
  qgemm::Scratch<uint8_t> in, result, memory;
  uint8_t *x = in.get(inputs), *y = result.get(outputs);
  std::memcpy(x, random_bytes(inputs).data(), static_cast<size_t>(inputs));
  const size_t half = static_cast<size_t>(inputs + outputs) / 2;
  uint8_t* copy = memory.get(static_cast<int64_t>(2 * half));
  std::memset(copy, 1, 2 * half);
  Turns turns;
  const size_t layer = turns.add([&] { call(x, y); });
  const size_t moved = turns.add([&] {
    std::memcpy(copy, copy + half, half);
    benchmark::ClobberMemory();
  });
  turns.run(state);
  const double bytes = double(inputs + outputs);
  state.counters["GBs"] = bytes / turns.best(layer) * 1e-9;
  state.counters["memcpy_GBs"] = double(2 * half) / turns.best(moved) * 1e-9;
  state.counters["percent"] = 100 * turns.best(moved) / turns.best(layer);
}

enum class Pool { max, average, global };

void pool(benchmark::State& state, Pool kind, int64_t size, int64_t channels) {
  qgemm::Window g;
  g.batch = 1;
  g.h = g.w = size;
  g.c = channels;
  g.kh = g.kw = kind == Pool::global ? size : kind == Pool::max ? 3 : 2;
  g.stride_h = g.stride_w = 2;
  if (kind == Pool::max) g.top = g.left = g.bottom = g.right = 1;
  if (kind == Pool::max) return pooling(state, g, [&](const uint8_t* x, uint8_t* y) { qgemm::max_pool2d(g, x, y); });
  qgemm::OutputSpec out = output(qgemm::OutType::u8);
  out.scale = 0.02f;
  pooling(state, g, [&](const uint8_t* x, uint8_t* y) { qgemm::avg_pool2d(g, x, {0.02f, 120}, false, y, out); });
}

}  // namespace

int main(int argc, char** argv) {
  for (const Shape& s : kShapes) benchmark::RegisterBenchmark((std::string("conv/") + s.name).c_str(), conv, s)->UseRealTime();
  benchmark::RegisterBenchmark("max_pool3x3s2/112x112x64", pool, Pool::max, 112, 64)->UseRealTime();
  benchmark::RegisterBenchmark("max_pool3x3s2/28x28x256", pool, Pool::max, 28, 256)->UseRealTime();
  benchmark::RegisterBenchmark("max_pool3x3s2/56x56x24", pool, Pool::max, 56, 24)->UseRealTime();
  benchmark::RegisterBenchmark("average_pool2x2s2/28x28x256", pool, Pool::average, 28, 256)->UseRealTime();
  benchmark::RegisterBenchmark("average_pool2x2s2/56x56x64", pool, Pool::average, 56, 64)->UseRealTime();
  benchmark::RegisterBenchmark("global_average_pool/7x7x2048", pool, Pool::global, 7, 2048)->UseRealTime();
  benchmark::RegisterBenchmark("global_average_pool/7x7x512", pool, Pool::global, 7, 512)->UseRealTime();
  benchmark::RegisterBenchmark("global_average_pool/28x28x240", pool, Pool::global, 28, 240)->UseRealTime();
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
