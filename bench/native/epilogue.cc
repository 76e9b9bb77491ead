// What an output costs: the same short-K product with int32, fp32 and requantized u8 output, and dynamically quantized rows.
// Short K is where the epilogue shows, since each output has few products. Time and rate are of the u8 output; `_x` is another
// output's time over it.
#include "cpu/features.h"
#include "layer.h"
#include "loops.h"
#include "turns.h"

namespace {

using namespace qgemm_bench;

constexpr int64_t kPeakRounds = 2000;

void epilogue(benchmark::State& state) {
  const int64_t m = state.range(0), n = state.range(1), k = state.range(2);
  omp_set_num_threads(1);
  Layer layer(n, k), dynamic(n, k, true);
  const std::vector<uint8_t> x = random_bytes(m * k);
  const std::vector<float> scales(static_cast<size_t>(m), 0.02f);
  const std::vector<int32_t> zero_points(static_cast<size_t>(m), 120);
  qgemm::Scratch<float> c;
  float* y = c.get(m * n);
  Turns turns;
  const auto add = [&](qgemm::OutType type) {
    const qgemm::OutputSpec out = output(type);
    const ptrdiff_t ldc = n * static_cast<ptrdiff_t>(qgemm::out_size(type));
    return turns.add([&, out, ldc] { qgemm::linear(layer.view(), x.data(), m, k, y, ldc, out); });
  };
  const size_t u8 = add(qgemm::OutType::u8), s32 = add(qgemm::OutType::s32), f32 = add(qgemm::OutType::f32);
  const qgemm::OutputSpec floats = output(qgemm::OutType::f32);
  const size_t rows = turns.add([&] {
    qgemm::linear(dynamic.view(), x.data(), m, k, y, 4 * n, floats, {zero_points.data(), scales.data()});
  });
  size_t peak = 0;
  int64_t done = 0;
#if QGEMM_X86
  if (qgemm::cpu_features().avx512vnni) peak = turns.add([&] { done = vnni_peak_round(kPeakRounds); });
#endif
  turns.run(state);
  const double ops = 2.0 * double(m) * double(n) * double(k), rate = ops / turns.best(u8) * 1e-9;
  state.counters["GOPS"] = rate;
  if (peak) state.counters["percent"] = 100 * rate / (double(done) / turns.best(peak) * 1e-9);
  state.counters["s32_x"] = turns.best(s32) / turns.best(u8);
  state.counters["f32_x"] = turns.best(f32) / turns.best(u8);
  state.counters["dynamic_x"] = turns.best(rows) / turns.best(u8);
  state.counters["u8_ps"] = turns.best(u8) / double(m * n) * 1e12;  // picoseconds an output
}
BENCHMARK(epilogue)
    ->ArgNames({"M", "N", "K"})
    ->UseRealTime()
    ->Args({3136, 256, 64})
    ->Args({3136, 64, 64})
    ->Args({196, 1024, 256})
    ->Args({784, 256, 256})
    ->Args({128, 64, 1024});

}  // namespace

BENCHMARK_MAIN();
