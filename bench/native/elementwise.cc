// Operations that do little to each byte, on one thread and data that L2 holds: GB/s of all streams read and written, beside a
// loop that only moves the same streams (`percent` is the share of its rate). Each runs on the best instruction set path and on
// those below.
#include <string>

#include "cpu/features.h"
#include "layer.h"
#include "loops.h"
#include "ops/eltwise.h"
#include "turns.h"

namespace {

using qgemm_bench::random_bytes;
using qgemm_bench::Turns;

constexpr int64_t kRows = 2048, kColumns = 64;  // 128 KiB a stream

// `streams`: read, beside the one written. f(a, b, y) computes kRows x kColumns bytes.
template <class F>
void against_moving(benchmark::State& state, int streams, F f) {
  const auto isa = static_cast<qgemm::Isa>(state.range(0));
  if (!qgemm::isa_available(isa)) return state.SkipWithError("this CPU cannot run the path");
  omp_set_num_threads(1);
  qgemm::force_isa(qgemm::isa_name(isa));
  const int64_t bytes = kRows * kColumns;
  qgemm::Scratch<uint8_t> memory;
  uint8_t *a = memory.get(3 * bytes), *b = a + bytes, *y = b + bytes;
  const std::vector<uint8_t> noise = random_bytes(2 * bytes);
  std::copy(noise.begin(), noise.end(), a);
  Turns turns;
  const size_t own = turns.add([=] { f(a, b, y); });
#if QGEMM_X86
  size_t move = 0;
  if (qgemm::cpu_features().avx512f) move = turns.add([=] { qgemm_bench::move_avx512(a, streams == 2 ? b : nullptr, y, bytes); });
#endif
  turns.run(state);
  const double moved = double(bytes) * (streams + 1);
  state.SetLabel(qgemm::isa_name(isa));
  state.counters["GBs"] = moved / turns.best(own) * 1e-9;
#if QGEMM_X86
  if (move) state.counters["percent"] = 100 * turns.best(move) / turns.best(own);
#endif
  qgemm::force_isa(nullptr);
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

void paths(benchmark::internal::Benchmark* b) {
  b->ArgNames({"path"})->UseRealTime();
  for (int isa = qgemm::kIsaCount - 1; isa > 0; --isa) b->Args({isa});
}
BENCHMARK(lut)->Apply(paths);
BENCHMARK(add)->Apply(paths);
BENCHMARK(mul)->Apply(paths);
BENCHMARK(mul_channels)->Apply(paths);

}  // namespace

BENCHMARK_MAIN();
