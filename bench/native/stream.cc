// Reading memory, and the product of few rows, which is nothing but reading weights:
//   read    GB/s of plain loops over a footprint that L1, L2, L3 or only DRAM holds, for one thread and two
//   gemv    qgemm::linear with M = 1..8 rows over weights in L2, L3, DRAM: GB/s of weights; the best plain loop over the same
//           weights, taking turns with it (`stream_GBs`); the share of it (`percent`); and the share of the lower of two limits,
//           that loop and vpdpbusd's peak (`of_limit`), since from a few rows on multiplying takes longer than reading
#include <string>

#include "cpu/features.h"
#include "layer.h"
#include "loops.h"
#include "turns.h"

namespace {

using qgemm_bench::Layer;
using qgemm_bench::Reader;
using qgemm_bench::Turns;

#if QGEMM_X86
constexpr int64_t kPeakRounds = 2000;
#endif

qgemm_bench::Readers best_readers() {
#if QGEMM_X86
  if (qgemm::cpu_features().avx512f) return qgemm_bench::readers_avx512();
  if (qgemm::cpu_features().avx2) return qgemm_bench::readers_avx2();
#endif
  return {nullptr, 0};
}

// Each thread reads a contiguous share, as the drivers split panels.
void read_shares(const Reader& reader, const uint8_t* p, int64_t bytes, int threads) {
  qgemm::parallel_shares(bytes / 1024, threads,
                         [&](int64_t begin, int64_t end) { reader.read(p + begin * 1024, (end - begin) * 1024); });
}

#if QGEMM_X86
void read(benchmark::State& state, bool avx512) {
  const int64_t kib = state.range(0), variant = state.range(1);
  const int threads = static_cast<int>(state.range(2));
  const qgemm::CpuFeatures& cpu = qgemm::cpu_features();
  if (avx512 ? !cpu.avx512f : !cpu.avx2) return state.SkipWithError(avx512 ? "this CPU has no avx512f" : "this CPU has no avx2");
  const Reader& reader = (avx512 ? qgemm_bench::readers_avx512() : qgemm_bench::readers_avx2()).first[variant];
  omp_set_num_threads(threads);
  qgemm::Scratch<uint8_t> buffer;
  const int64_t bytes = kib * 1024;
  uint8_t* p = buffer.get(bytes);
  for (int64_t i = 0; i < bytes; ++i) p[i] = static_cast<uint8_t>(i);
  Turns turns;
  const size_t own = turns.add([=, &reader] { read_shares(reader, p, bytes, threads); });
  turns.run(state);
  state.SetLabel(reader.name);
  state.counters["GBs"] = static_cast<double>(bytes) / turns.best(own) * 1e-9;
}

// Footprints of L1, L2, L3 and DRAM on today's servers; two threads only where a parallel region does not outlast the reading.
void footprints(benchmark::internal::Benchmark* b) {
  b->ArgNames({"KiB", "variant", "threads"})->UseRealTime();
  for (int64_t kib : {16, 512, 8192, 262144})
    for (int64_t threads : {1, 2})
      for (int64_t variant = 0; variant < 5; ++variant)
        if (threads == 1 || kib >= 512) b->Args({kib, variant, threads});
}
BENCHMARK_CAPTURE(read, avx512, true)->Apply(footprints);
BENCHMARK_CAPTURE(read, avx2, false)->Apply(footprints);
#endif

void gemv(benchmark::State& state, qgemm::OutType type) {
  const int64_t m = state.range(0), n = state.range(1), k = state.range(2), copies = state.range(3);
  const int threads = static_cast<int>(state.range(4));
  omp_set_num_threads(threads);
  Layer layer(n, k, false, copies);
  const std::vector<uint8_t> x = qgemm_bench::random_bytes(m * k);
  std::vector<char> y(static_cast<size_t>(m * n * qgemm::out_size(type)));
  const qgemm::OutputSpec out = qgemm_bench::output(type);
  const ptrdiff_t ldc = n * static_cast<ptrdiff_t>(qgemm::out_size(type));
  const int64_t bytes = layer.panel_bytes();
  Turns turns;
  const size_t own = turns.add([&] { qgemm::linear(layer.next(), x.data(), m, k, y.data(), ldc, out); });
  const qgemm_bench::Readers readers = best_readers();
  for (int i = 1; i < readers.count; ++i)
    turns.add([&, i] { read_shares(readers.first[i], layer.next().panels, bytes, threads); });
  double compute = 1e30;  // GB/s of weights at which vpdpbusd would be the limit
#if QGEMM_X86
  size_t peak = 0;
  int64_t done = 0;
  if (qgemm::cpu_features().avx512vnni) peak = turns.add([&] { done = qgemm_bench::vnni_peak_round(kPeakRounds); });
#endif
  turns.run(state);
#if QGEMM_X86
  if (peak) compute = double(done) / turns.best(peak) * threads / double(2 * m) * 1e-9;
#endif
  double stream = 0;
  for (size_t i = 1; i < static_cast<size_t>(readers.count); ++i) {
    const double rate = static_cast<double>(bytes) / turns.best(i) * 1e-9;
    if (rate > stream) stream = rate, state.SetLabel(readers.first[i].name);
  }
  const double rate = static_cast<double>(bytes) / turns.best(own) * 1e-9;
  state.counters["GBs"] = rate;
  state.counters["GOPS"] = rate * double(2 * m);
  if (stream == 0) return;
  state.counters["stream_GBs"] = stream;
  state.counters["percent"] = 100 * rate / stream;
  state.counters["of_limit"] = 100 * rate / (stream < compute ? stream : compute);
}

void products(benchmark::internal::Benchmark* b) {
  b->ArgNames({"M", "N", "K", "copies", "threads"})->UseRealTime();
  // 512 KiB (L2 of one core), 1 MiB (of two), 4 and 16 MiB (L3), 16 x 16 MiB (DRAM).
  for (int64_t m : {1, 2, 3, 4, 6, 8})
    for (int64_t threads : {1, 2}) {
      b->Args({m, 512 * threads, 1024, 1, threads});
      b->Args({m, 2048, 2048, 1, threads});
      b->Args({m, 4096, 4096, 1, threads});
      b->Args({m, 4096, 4096, 16, threads});
    }
}
BENCHMARK_CAPTURE(gemv, u8, qgemm::OutType::u8)->Apply(products);
BENCHMARK_CAPTURE(gemv, f32, qgemm::OutType::f32)->Apply(products);

}  // namespace

BENCHMARK_MAIN();
