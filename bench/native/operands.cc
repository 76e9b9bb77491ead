// What other operands cost, against the packed u8 x s8 product of the same shape, taking turns with it:
//   matmul   activation by activation: u8 x u8 and s8 x s8, either order of the right one, which is packed during the call
//   weights  per-channel weight zero points
//   nibbles  4-bit weights
//   wide     16-bit activations with 8-bit and 4-bit weights
#include "layer.h"
#include "ops/matmul.h"
#include "turns.h"

namespace {

using namespace qgemm_bench;

double operations(int64_t batch, int64_t m, int64_t n, int64_t k) { return 2.0 * double(batch * m) * double(n) * double(k); }

// A batch of products with packed weights, shared among threads as matmul shares its own.
void packed_products(const Layer& layer, int64_t batch, int64_t m, const uint8_t* x, uint8_t* y, const qgemm::OutputSpec& out,
                     int threads) {
  if (batch == 1) return qgemm::linear_on(qgemm::table(), layer.view(), x, m, layer.k, y, layer.n, out, {}, threads);
  qgemm::parallel_shares(batch, threads, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b)
      qgemm::linear_on(qgemm::table(), layer.view(), x + b * m * layer.k, m, layer.k, y + b * m * layer.n, layer.n, out, {}, 1);
  });
}

void matmul(benchmark::State& state) {
  const int64_t batch = state.range(0), m = state.range(1), n = state.range(2), k = state.range(3);
  const bool is_signed = state.range(4) != 0, transposed = state.range(5) != 0;
  const int threads = static_cast<int>(state.range(6));
  omp_set_num_threads(threads);
  Layer layer(n, k);
  const std::vector<uint8_t> a = random_bytes(batch * m * k), b = random_bytes(batch * n * k);
  std::vector<uint8_t> c(static_cast<size_t>(batch * m * n));
  const qgemm::OutputSpec out = output(qgemm::OutType::u8);
  const qgemm::MatmulOperand left{a.data(), m * k, k, false, is_signed, 0.02f, is_signed ? -3 : 121};
  const qgemm::MatmulOperand right{b.data(), n * k, transposed ? k : n, transposed, is_signed, 0.01f, is_signed ? 0 : 119};
  Turns turns;
  const size_t own = turns.add([&] { qgemm::matmul(batch, m, n, k, left, right, c.data(), m * n, n, out); });
  const size_t plain = turns.add([&] { packed_products(layer, batch, m, a.data(), c.data(), out, threads); });
  turns.run(state);
  state.counters["GOPS"] = operations(batch, m, n, k) / turns.best(own) * 1e-9;
  state.counters["u8s8_GOPS"] = operations(batch, m, n, k) / turns.best(plain) * 1e-9;
  state.counters["percent"] = 100 * turns.best(plain) / turns.best(own);
}

void products(benchmark::internal::Benchmark* b) {
  b->ArgNames({"batch", "M", "N", "K", "signed", "transposed", "threads"})->UseRealTime();
  for (int64_t threads : {1, 2})
    for (int64_t is_signed : {0, 1})
      for (int64_t transposed : {0, 1}) {
        b->Args({12, 128, 128, 64, is_signed, transposed, threads});
        b->Args({12, 128, 64, 128, is_signed, transposed, threads});
        b->Args({12, 197, 197, 64, is_signed, transposed, threads});
        b->Args({1, 512, 512, 512, is_signed, transposed, threads});
        b->Args({1, 1024, 1024, 1024, is_signed, transposed, threads});
      }
}
BENCHMARK(matmul)->Apply(products);

void weights(benchmark::State& state) {
  const int64_t m = state.range(0), n = state.range(1), k = state.range(2);
  omp_set_num_threads(static_cast<int>(state.range(3)));
  Layer layer(n, k), shifted(n, k);
  std::vector<int32_t> zero_points(static_cast<size_t>(n));
  for (size_t i = 0; i < zero_points.size(); ++i) zero_points[i] = static_cast<int32_t>(i % 40) - 20;
  shifted.spec.zero_point = zero_points.data();
  qgemm::Scratch<uint8_t> memory;
  const int64_t bytes = qgemm::packed_bytes(shifted.spec);
  qgemm::pack(shifted.spec, memory.get(bytes));
  const qgemm::PackedView view = qgemm::view(memory.get(bytes), bytes);
  const std::vector<uint8_t> x = random_bytes(m * k);
  std::vector<uint8_t> y(static_cast<size_t>(m * n));
  const qgemm::OutputSpec out = output(qgemm::OutType::u8);
  Turns turns;
  const size_t own = turns.add([&] { qgemm::linear(view, x.data(), m, k, y.data(), n, out); });
  const size_t plain = turns.add([&] { qgemm::linear(layer.view(), x.data(), m, k, y.data(), n, out); });
  turns.run(state);
  state.counters["GOPS"] = operations(1, m, n, k) / turns.best(own) * 1e-9;
  state.counters["percent"] = 100 * turns.best(plain) / turns.best(own);
}

void nibbles(benchmark::State& state) {
  const int64_t m = state.range(0), n = state.range(1), k = state.range(2);
  omp_set_num_threads(static_cast<int>(state.range(3)));
  Layer layer(n, k, false, 1, 4), plain_layer(n, k);
  const std::vector<uint8_t> x = random_bytes(m * k);
  std::vector<uint8_t> y(static_cast<size_t>(m * n));
  const qgemm::OutputSpec out = output(qgemm::OutType::u8);
  Turns turns;
  const size_t own = turns.add([&] { qgemm::linear(layer.view(), x.data(), m, k, y.data(), n, out); });
  const size_t plain = turns.add([&] { qgemm::linear(plain_layer.view(), x.data(), m, k, y.data(), n, out); });
  turns.run(state);
  state.counters["GOPS"] = operations(1, m, n, k) / turns.best(own) * 1e-9;
  state.counters["percent"] = 100 * turns.best(plain) / turns.best(own);
}

void wide(benchmark::State& state) {
  const int64_t m = state.range(0), n = state.range(1), k = state.range(2);
  omp_set_num_threads(static_cast<int>(state.range(3)));
  Layer layer(n, k, true, 1, static_cast<int>(state.range(4))), plain_layer(n, k);
  const std::vector<uint8_t> x = random_bytes(2 * m * k);
  std::vector<uint8_t> y(static_cast<size_t>(2 * m * n));
  const qgemm::OutputSpec out = output(qgemm::OutType::u8);
  qgemm::OutputSpec out16 = out;
  out16.hi = 65535;
  out16.f_lo = -1e30f;
  out16.f_hi = 1e30f;
  const uint16_t* x16 = reinterpret_cast<const uint16_t*>(x.data());
  Turns turns;
  const size_t own = turns.add([&] { qgemm::linear16(layer.view(), x16, m, k, y.data(), 2 * n, out16, true, {1e-4f, 30000}); });
  const size_t plain = turns.add([&] { qgemm::linear(plain_layer.view(), x.data(), m, k, y.data(), n, out); });
  turns.run(state);
  state.counters["GOPS"] = operations(1, m, n, k) / turns.best(own) * 1e-9;
  state.counters["percent"] = 100 * turns.best(plain) / turns.best(own);
}

void layers(benchmark::internal::Benchmark* b) {
  b->ArgNames({"M", "N", "K", "threads"})->UseRealTime();
  for (int64_t threads : {1, 2}) {
    b->Args({1, 1024, 1024, threads});
    b->Args({16, 768, 768, threads});
    b->Args({128, 3072, 768, threads});
    b->Args({196, 1024, 256, threads});
    b->Args({1024, 1024, 1024, threads});
  }
}
void wide_layers(benchmark::internal::Benchmark* b) {
  b->ArgNames({"M", "N", "K", "threads", "bits"})->UseRealTime();
  for (int64_t bits : {8, 4})
    for (int64_t threads : {1, 2}) {
      b->Args({1, 1024, 1024, threads, bits});
      b->Args({16, 768, 768, threads, bits});
      b->Args({128, 3072, 768, threads, bits});
      b->Args({196, 1024, 256, threads, bits});
      b->Args({1024, 1024, 1024, threads, bits});
    }
}
BENCHMARK(weights)->Apply(layers);
BENCHMARK(nibbles)->Apply(layers);
BENCHMARK(wide)->Apply(wide_layers);

}  // namespace

BENCHMARK_MAIN();
