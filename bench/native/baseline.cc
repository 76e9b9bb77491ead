// FP32 and BF16 GEMM of our own against qgemm with u8 output, taking turns: GFLOPS and share of the multiply-add peak of the
// baseline, and how many times faster the integers are (`qgemm_x`).
#include "baseline.h"

#include <cmath>
#include <string>

#include "cpu/features.h"
#include "layer.h"
#include "turns.h"

namespace qgemm_bench {
namespace {

constexpr int64_t kBlockK = 2048;       // bytes of a row: a panel's share then stays in L2
constexpr int64_t kBlockTiles = 16;     // tiles of rows that stay in L2 as well
constexpr int64_t kPeakRounds = 40000;  // longer than it takes to start threads

// Elements of `size` bytes (4: float; 2: bfloat16, K even).
class Baseline {
 public:
  Baseline(const BaselineKernel& kernel, int size, const std::vector<uint8_t>& weight, int64_t n, int64_t k)
      : kernel_(kernel), n_(n), row_(k * size), panels_((n + kernel.columns - 1) / kernel.columns) {
    const int64_t columns = kernel.columns;
    uint8_t* to = packed_.get(panels_ * columns * row_);
    std::memset(to, 0, static_cast<size_t>(panels_ * columns * row_));
    for (int64_t c = 0; c < n; ++c)
      for (int64_t b = 0; b < row_; b += 4)
        std::memcpy(to + (c / columns * columns) * row_ + b * columns + c % columns * 4, weight.data() + c * row_ + b, 4);
  }

  void run(const uint8_t* a, int64_t m, float* c, int threads) {
    int64_t lda = row_;
    if (row_ % 4096 == 0) {  // all rows of a tile would share one set of L1
      lda = row_ + 64;
      uint8_t* copy = rows_.get(m * lda);
      for (int64_t i = 0; i < m; ++i) std::memcpy(copy + i * lda, a + i * row_, static_cast<size_t>(row_));
      a = copy;
    }
    const int64_t tall = kernel_.rows * kBlockTiles, blocks = (m + tall - 1) / tall;
    uint8_t* b = packed_.get(0);
    qgemm::parallel_shares(blocks * panels_, threads, [=](int64_t begin, int64_t end) {
      for (int64_t k = 0; k < row_; k += kBlockK)
        for (int64_t i = begin; i < end; ++i) {
          const int64_t m0 = m * (i / panels_) / blocks, m1 = m * (i / panels_ + 1) / blocks;
          panel(a, lda, b, c, i % panels_, m0, m1, k);
        }
    });
  }

 private:
  void panel(const uint8_t* a, int64_t lda, const uint8_t* b, float* c, int64_t p, int64_t m0, int64_t m1, int64_t k) const {
    const int64_t columns = kernel_.columns, left = n_ - p * columns, valid = left < columns ? left : columns;
    alignas(64) float edge[6 * 64];
    BaselineTile t{};
    t.b = b + p * columns * row_ + k * columns;
    t.bytes = row_ - k < kBlockK ? row_ - k : kBlockK;
    t.lda = lda;
    t.first = k == 0;
    const int64_t tiles = (m1 - m0 + kernel_.rows - 1) / kernel_.rows;
    for (int64_t i = 0; i < tiles; ++i) {
      const int64_t r = m0 + (m1 - m0) * i / tiles;
      t.a = a + r * lda + k;
      t.rows = static_cast<int>(m0 + (m1 - m0) * (i + 1) / tiles - r);
      float* to = c + r * n_ + p * columns;
      const bool whole = valid == columns;
      t.c = whole ? to : edge;
      t.ldc = whole ? n_ : columns;
      for (int x = 0; !whole && !t.first && x < t.rows; ++x)
        std::memcpy(edge + x * columns, to + x * n_, static_cast<size_t>(valid) * 4);
      kernel_.tile(t);
      for (int x = 0; !whole && x < t.rows; ++x) std::memcpy(to + x * n_, edge + x * columns, static_cast<size_t>(valid) * 4);
    }
  }

  BaselineKernel kernel_;
  int64_t n_, row_, panels_;
  qgemm::Scratch<uint8_t> packed_, rows_;
};

// Random values whose low half is zero, so that a float and its bfloat16 are the same number.
std::vector<float> values(int64_t count) {
  std::vector<float> x = random_floats(count);
  for (float& v : x) {
    uint32_t bits;
    std::memcpy(&bits, &v, 4);
    bits &= 0xffff0000u;
    std::memcpy(&v, &bits, 4);
  }
  return x;
}
std::vector<uint8_t> stored(const std::vector<float>& x, int size) {
  std::vector<uint8_t> bytes(x.size() * static_cast<size_t>(size));
  for (size_t i = 0; i < x.size(); ++i)
    std::memcpy(bytes.data() + i * static_cast<size_t>(size), reinterpret_cast<const char*>(&x[i]) + 4 - size,
                static_cast<size_t>(size));
  return bytes;
}

void compare(benchmark::State& state, const BaselineKernel& kernel, int size) {
  const int64_t m = state.range(0), n = state.range(1), k = state.range(2);
  const int threads = static_cast<int>(state.range(3));
  omp_set_num_threads(threads);
  const std::vector<float> x = values(m * k), w = values(n * k);
  const std::vector<uint8_t> a = stored(x, size);
  std::vector<float> c(static_cast<size_t>(m * n));
  Baseline baseline(kernel, size, stored(w, size), n, k);
  baseline.run(a.data(), m, c.data(), threads);
  for (int64_t i = 0; i < m; i += 1 + m / 13)
    for (int64_t j = n - 1; j >= 0; j -= 1 + n / 17) {
      double sum = 0;
      for (int64_t l = 0; l < k; ++l) sum += double(x[static_cast<size_t>(i * k + l)]) * w[static_cast<size_t>(j * k + l)];
      if (!(std::fabs(sum - c[static_cast<size_t>(i * n + j)]) < 1e-3 + 1e-5 * double(k)))
        return state.SkipWithError("the baseline is wrong");
    }

  Layer layer(n, k);
  const std::vector<uint8_t> xq = random_bytes(m * k);
  std::vector<uint8_t> y(static_cast<size_t>(m * n));
  const qgemm::OutputSpec out = output(qgemm::OutType::u8);
  int64_t done = 0;
  Turns turns;
  const size_t own = turns.add([&] { baseline.run(a.data(), m, c.data(), threads); });
  const size_t integers = turns.add([&] { qgemm::linear(layer.view(), xq.data(), m, k, y.data(), n, out); });
  const size_t peak = turns.add([&] {
    qgemm::parallel_shares(threads, threads, [&](int64_t, int64_t) {
      const int64_t ops = kernel.peak(kPeakRounds);
#pragma omp atomic write
      done = ops;
    });
  });
  turns.run(state);
  const double ops = 2.0 * double(m) * double(n) * double(k), limit = double(done) * threads / turns.best(peak) * 1e-9;
  state.counters["GFLOPS"] = ops / turns.best(own) * 1e-9;
  state.counters["peak"] = limit;
  state.counters["percent"] = 100 * ops / turns.best(own) * 1e-9 / limit;
  state.counters["qgemm_GOPS"] = ops / turns.best(integers) * 1e-9;
  state.counters["qgemm_x"] = turns.best(own) / turns.best(integers);
}

void f32(benchmark::State& state) {
#if QGEMM_X86
  if (qgemm::cpu_features().avx512f) return compare(state, baseline_f32_avx512(), 4);
  if (qgemm::cpu_features().avx2 && qgemm::cpu_features().fma) return compare(state, baseline_f32_avx2(), 4);
#endif
  state.SkipWithError("no baseline for this CPU: it needs AVX2 and FMA");
}

#if QGEMM_X86
void f32_avx2(benchmark::State& state) {
  if (qgemm::cpu_features().avx2 && qgemm::cpu_features().fma) return compare(state, baseline_f32_avx2(), 4);
  state.SkipWithError("this CPU has no AVX2 or no FMA");
}
#endif

void bf16(benchmark::State& state) {
#if QGEMM_X86
  if (qgemm::cpu_features().avx512bf16) return compare(state, baseline_bf16_avx512(), 2);
#endif
  state.SkipWithError("this CPU has no avx512_bf16");
}

void shapes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"M", "N", "K", "threads"})->UseRealTime();
  for (int64_t threads : {1, 2}) {
    b->Args({1024, 1024, 1024, threads});
    b->Args({512, 512, 512, threads});
    b->Args({128, 3072, 768, threads});
    b->Args({128, 768, 3072, threads});
    b->Args({196, 1024, 256, threads});
    b->Args({16, 4096, 4096, threads});
    b->Args({1, 4096, 4096, threads});
    b->Args({63, 1000, 514, threads});
  }
}
BENCHMARK(f32)->Apply(shapes);
#if QGEMM_X86
BENCHMARK(f32_avx2)->ArgNames({"M", "N", "K", "threads"})->UseRealTime()->Args({1024, 1024, 1024, 1});
#endif
BENCHMARK(bf16)->Apply(shapes);

}  // namespace
}  // namespace qgemm_bench

BENCHMARK_MAIN();
