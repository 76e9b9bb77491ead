// Contenders of one benchmark take turns, so that all of them see the same clock, caches and neighbours; what is compared is the
// fastest turn of each. One iteration of the benchmark is a round: a turn for everyone, each round starting with the next one.
#pragma once
#include <benchmark/benchmark.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

namespace qgemm_bench {

class Turns {
 public:
  // A turn makes as many calls of `f` as take about `turn_seconds`. Returns the contender's index.
  template <class F>
  size_t add(F f, double turn_seconds = 50e-6) {
    Contender c{[f](int64_t calls) mutable {
                  for (int64_t i = 0; i < calls; ++i) f();
                },
                1, 1e30};
    time(c);
    while (time(c) < turn_seconds && c.calls < int64_t(1) << 24) c.calls *= 2;
    contenders_.push_back(std::move(c));
    return contenders_.size() - 1;
  }

  // Runs the benchmark, for use with UseRealTime(): its own time is that of a round. Counter `us`: a call of the first contender.
  void run(benchmark::State& state) {
    size_t first = 0;
    for (auto _ : state) {
      for (size_t i = 0; i < contenders_.size(); ++i) {
        Contender& c = contenders_[(first + i) % contenders_.size()];
        const double seconds = time(c) / static_cast<double>(c.calls);
        if (seconds < c.best) c.best = seconds;
      }
      ++first;
    }
    state.counters["us"] = best(0) * 1e6;
  }

  // Seconds of a call in the contender's fastest turn.
  double best(size_t i) const { return contenders_[i].best; }

 private:
  struct Contender {
    std::function<void(int64_t)> turn;
    int64_t calls;
    double best;
  };
  static double time(Contender& c) {
    const auto begin = std::chrono::steady_clock::now();
    c.turn(c.calls);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }
  std::vector<Contender> contenders_;
};

}  // namespace qgemm_bench
