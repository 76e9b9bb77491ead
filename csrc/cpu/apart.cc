#include "cpu/apart.h"

#ifdef __linux__
#include <sched.h>
#endif

namespace qgemm {

#ifdef __linux__
namespace {

// A move costs some tens of microseconds. A thread moves no more often than this, so that it costs little even if moving is in
// vain.
constexpr auto kBetweenMoves = std::chrono::milliseconds(2);

void leave_core(int core, int threads) {
  static thread_local std::chrono::steady_clock::time_point last{};
  const auto now = std::chrono::steady_clock::now();
  if (now - last < kBetweenMoves) return;
  last = now;
  cpu_set_t all;
  if (sched_getaffinity(0, sizeof all, &all) != 0 || CPU_COUNT(&all) < threads) return;
  cpu_set_t others = all;
  CPU_CLR(core, &others);
  if (CPU_COUNT(&others) > 0 && sched_setaffinity(0, sizeof others, &others) == 0) sched_setaffinity(0, sizeof all, &all);
}

}  // namespace

Apart::Apart(int threads) : threads_(threads) {
  core_[0].store(sched_getcpu(), std::memory_order_relaxed);
  for (int i = 1; i < kMost && i < threads; ++i) core_[i].store(-1, std::memory_order_relaxed);
}

void Apart::begin(int thread) {
  if (thread >= kMost || thread >= threads_) return;
  const int core = sched_getcpu();
  if (core < 0) return;
  core_[thread].store(core, std::memory_order_relaxed);
  for (int i = 0; i < thread; ++i) {
    if (core_[i].load(std::memory_order_relaxed) != core) continue;
    leave_core(core, threads_);
    core_[thread].store(sched_getcpu(), std::memory_order_relaxed);
    return;
  }
}
#else
Apart::Apart(int threads) : threads_(threads) {}
void Apart::begin(int) {}
#endif

}  // namespace qgemm
