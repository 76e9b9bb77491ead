// Nanoseconds that the driver adds to its kernel on shapes of a few products: qgemm::linear on one thread, and the same tiles by
// calls of the kernel alone, taking turns.
#include "cpu/dispatch.h"
#include "layer.h"
#include "turns.h"

namespace {

using namespace qgemm_bench;

constexpr int kMaxRows = 16;

// What the driver comes down to when every panel holds s8 and there are no groups.
void kernels_only(const Layer& layer, const qgemm::Epilogue& e, const uint8_t* x, int64_t m, char* y, int64_t size) {
  const qgemm::PackedView& w = layer.view();
  const qgemm::KernelTable& t = qgemm::table();
  const uint8_t* rows[kMaxRows];
  for (int64_t p = 0; p < w.panels_per_group; ++p) {
    const qgemm::GemmKernel& kernel = t.gemm_for(w.panel_width(p));
    for (int64_t r = 0; r < m; r += kernel.mr) {
      qgemm::gemm_args g{};
      g.m = static_cast<int32_t>(m - r < kernel.mr ? m - r : kernel.mr);
      for (int i = 0; i < g.m; ++i) rows[i] = x + (r + i) * w.k;
      const qgemm::GemmTile tile{rows, 0};
      g.tiles = &tile;
      g.taps = 1;
      g.kc = static_cast<int32_t>(w.kc);
      g.b = reinterpret_cast<const int8_t*>(w.panel(0, p));
      g.width = w.panel_width(p);
      g.n = w.panel_columns(p);
      g.ep = &e;
      g.row = static_cast<int32_t>(r);
      g.col = static_cast<int32_t>(p * qgemm::kPanel);
      g.c = y + (r * w.n + p * qgemm::kPanel) * size;
      g.ldc = w.n * size;
      kernel.fn(g);
    }
  }
}

void overhead(benchmark::State& state, qgemm::OutType type) {
  const int64_t m = state.range(0), n = state.range(1), k = state.range(2);
  omp_set_num_threads(1);
  Layer layer(n, k);
  const std::vector<uint8_t> x = random_bytes(m * k);
  const int64_t size = static_cast<int64_t>(qgemm::out_size(type));
  std::vector<char> y(static_cast<size_t>(m * n * size));
  const qgemm::OutputSpec out = output(type);
  const qgemm::Epilogue e = qgemm::make_epilogue(layer.view(), out, {});
  Turns turns;
  const size_t driver = turns.add([&] { qgemm::linear(layer.view(), x.data(), m, k, y.data(), n * size, out); });
  const size_t kernel = turns.add([&] { kernels_only(layer, e, x.data(), m, y.data(), size); });
  turns.run(state);
  state.counters["driver_ns"] = turns.best(driver) * 1e9;
  state.counters["kernel_ns"] = turns.best(kernel) * 1e9;
  state.counters["overhead_ns"] = (turns.best(driver) - turns.best(kernel)) * 1e9;
}

void shapes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"M", "N", "K"})->UseRealTime();
  b->Args({1, 10, 10})
      ->Args({4, 16, 16})
      ->Args({1, 64, 64})
      ->Args({1, 10, 1024})
      ->Args({2, 16, 1024})
      ->Args({7, 129, 333})
      ->Args({64, 64, 64});
}
BENCHMARK_CAPTURE(overhead, u8, qgemm::OutType::u8)->Apply(shapes);
BENCHMARK_CAPTURE(overhead, f32, qgemm::OutType::f32)->Apply(shapes);

}  // namespace

BENCHMARK_MAIN();
