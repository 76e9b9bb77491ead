// The packed GEMM with requantized u8 output, and the machine's own vpdpbusd peak, in one process:
//   qgemm_bench_gemm --benchmark_enable_random_interleaving=true --benchmark_repetitions=9
//   --benchmark_report_aggregates_only=true
// OMP_NUM_THREADS sets the threads; QGEMM_ISA the path.
#include "ops/gemm.h"

#include <benchmark/benchmark.h>

#include <random>
#include <vector>

#include "cpu/features.h"
#include "loops.h"
#include "ops/threads.h"

namespace {

#if QGEMM_X86
void peak(benchmark::State& state) {
  if (!qgemm::cpu_features().avx512vnni) return state.SkipWithError("this CPU has no avx512_vnni");
  int64_t ops = 0;
  for (auto _ : state) ops += qgemm_bench::vnni_peak_round(100000);
  state.counters["GOPS"] = benchmark::Counter(static_cast<double>(ops) * 1e-9, benchmark::Counter::kIsRate);
}
BENCHMARK(peak);
#endif

void linear_u8(benchmark::State& state) {
  const int64_t m = state.range(0), n = state.range(1), k = state.range(2);
  std::mt19937 random(1);
  std::vector<int8_t> weight(static_cast<size_t>(n * k));
  for (auto& w : weight) w = static_cast<int8_t>(random());
  std::vector<float> scale(static_cast<size_t>(n), 0.01f), bias(static_cast<size_t>(n), 0.5f);
  qgemm::PackSpec spec;
  spec.n = n;
  spec.k = k;
  spec.weight = weight.data();
  spec.scale = scale.data();
  spec.scale_count = n;
  spec.bias = bias.data();
  spec.x_scale = 0.02f;
  spec.x_zero_point = 120;
  qgemm::Scratch<uint8_t> packed, a, c;
  const int64_t bytes = qgemm::packed_bytes(spec);
  qgemm::pack(spec, packed.get(bytes));
  const qgemm::PackedView view = qgemm::view(packed.get(bytes), bytes);
  uint8_t* x = a.get(m * k);
  for (int64_t i = 0; i < m * k; ++i) x[i] = static_cast<uint8_t>(random());
  qgemm::OutputSpec out;
  out.type = qgemm::OutType::u8;
  out.scale = 3.0f;
  out.zero_point = 100;
  int64_t ops = 0;
  for (auto _ : state) {
    qgemm::linear(view, x, m, k, c.get(m * n), n, out);
    ops += 2 * m * n * k;
  }
  state.counters["GOPS"] = benchmark::Counter(static_cast<double>(ops) * 1e-9, benchmark::Counter::kIsRate);
}
BENCHMARK(linear_u8)
    ->ArgNames({"M", "N", "K"})
    ->Args({1024, 1024, 1024})
    ->Args({2048, 2048, 2048})
    ->Args({512, 512, 512})
    ->Args({128, 3072, 768})
    ->Args({128, 768, 3072})
    ->Args({16, 4096, 4096})
    ->Args({1, 4096, 4096})
    ->Args({196, 1024, 256})
    ->Args({3136, 256, 64})
    ->Args({49, 512, 2048})
    ->Args({64, 64, 64})
    ->UseRealTime();

}  // namespace

BENCHMARK_MAIN();
