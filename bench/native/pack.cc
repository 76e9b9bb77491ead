// How fast weights become panels: GB/s of canonical weights (one byte each, also the 4-bit ones, as pack takes them), and memcpy
// of as many bytes, taking turns.
#include <cstring>

#include "layer.h"
#include "turns.h"

namespace {

using namespace qgemm_bench;

void pack(benchmark::State& state) {
  const int64_t n = state.range(0), k = state.range(1);
  const int bits = static_cast<int>(state.range(2));
  omp_set_num_threads(static_cast<int>(state.range(3)));
  Layer layer(n, k, false, 1, bits);
  layer.spec.group_size = state.range(4);
  std::vector<float> scales(static_cast<size_t>(n * (layer.spec.group_size ? k / layer.spec.group_size : 1)), 0.01f);
  layer.spec.scale = scales.data();
  layer.spec.scale_count = static_cast<int64_t>(scales.size());
  qgemm::Scratch<uint8_t> packed, plain;
  const int64_t bytes = qgemm::packed_bytes(layer.spec);
  uint8_t *to = packed.get(bytes), *copy = plain.get(n * k);
  std::memset(to, 0, static_cast<size_t>(bytes));
  Turns turns;
  const size_t own = turns.add([&] { qgemm::pack(layer.spec, to); });
  const size_t plain_copy = turns.add([&] {
    qgemm::parallel_shares(n, omp_get_max_threads(), [&](int64_t begin, int64_t end) {
      std::memcpy(copy + begin * k, layer.spec.weight + begin * k, static_cast<size_t>((end - begin) * k));
    });
    benchmark::ClobberMemory();
  });
  turns.run(state);
  state.counters["GBs"] = double(n * k) / turns.best(own) * 1e-9;
  state.counters["memcpy_GBs"] = double(n * k) / turns.best(plain_copy) * 1e-9;
  state.counters["percent"] = 100 * turns.best(plain_copy) / turns.best(own);
}
BENCHMARK(pack)
    ->ArgNames({"N", "K", "bits", "threads", "group"})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond)
    ->Args({4096, 4096, 8, 1, 0})
    ->Args({4096, 4096, 8, 2, 0})
    ->Args({4096, 4096, 4, 1, 0})
    ->Args({4096, 4096, 4, 2, 0})
    ->Args({4096, 4096, 4, 1, 128})
    ->Args({4096, 4096, 4, 1, 32})
    ->Args({4096, 4096, 4, 2, 32})
    ->Args({768, 768, 8, 1, 0});

}  // namespace

BENCHMARK_MAIN();
