// linear_dynamic, fp32 to fp32, and its two parts on their own: quantizing the rows, and the product with rows' own encodings.
#include "layer.h"
#include "ops/quantize.h"
#include "turns.h"

namespace {

using namespace qgemm_bench;

void dynamic(benchmark::State& state) {
  const int64_t m = state.range(0), n = state.range(1), k = state.range(2);
  omp_set_num_threads(static_cast<int>(state.range(3)));
  Layer layer(n, k, true);
  const std::vector<float> x = random_floats(m * k);
  std::vector<float> y(static_cast<size_t>(m * n)), scales(static_cast<size_t>(m));
  std::vector<int32_t> zero_points(static_cast<size_t>(m));
  std::vector<uint8_t> q(static_cast<size_t>(m * k));
  const qgemm::OutputSpec out = output(qgemm::OutType::f32);
  const auto quantize = [&] {
    qgemm::quantize_dynamic(x.data(), m, k, k, q.data(), scales.data(), zero_points.data(), true, false);
  };
  quantize();
  Turns turns;
  const size_t whole =
      turns.add([&] { qgemm::linear_dynamic(layer.view(), x.data(), m, k, y.data(), 4 * n, true, false, out.f_lo, out.f_hi); });
  const size_t rows = turns.add(quantize);
  const size_t product = turns.add([&] {
    qgemm::linear(layer.view(), q.data(), m, k, y.data(), 4 * n, out, {zero_points.data(), scales.data()});
  });
  turns.run(state);
  state.counters["GOPS"] = 2.0 * double(m) * double(n) * double(k) / turns.best(whole) * 1e-9;
  state.counters["quantize_us"] = turns.best(rows) * 1e6;
  state.counters["quantize_GBs"] = 4.0 * double(m) * double(k) / turns.best(rows) * 1e-9;
  state.counters["product_us"] = turns.best(product) * 1e6;
  state.counters["parts_x"] = (turns.best(rows) + turns.best(product)) / turns.best(whole);
}

void shapes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"M", "N", "K", "threads"})->UseRealTime();
  for (int64_t threads : {1, 2}) {
    b->Args({100, 100, 100, threads});
    b->Args({3136, 256, 64, threads});
    b->Args({196, 1024, 256, threads});
    for (int64_t m : {1, 4, 16, 128}) {
      b->Args({m, 768, 768, threads});
      b->Args({m, 3072, 768, threads});
      b->Args({m, 768, 3072, threads});
      b->Args({m, 4096, 4096, threads});
    }
  }
}
BENCHMARK(dynamic)->Apply(shapes);

}  // namespace

BENCHMARK_MAIN();
