// How many threads a piece of work gets, and scratch memory that outlives calls.
#pragma once
#include <omp.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <new>
#include <type_traits>

#include "cpu/apart.h"
#include "cpu/team.h"
#include "cpu/threads.h"

namespace qgemm {

// Tests raise it, so that shapes of every size are shared among threads: a thread is worth `grain / grain_divisor` units.
inline int64_t grain_divisor = 1;

// A share of a team's that waits for it costs so much less than a parallel region.
constexpr int64_t kTeamGrain = 8;

// Threads for `work` units when a thread is worth `grain` of them. Obeys omp_set_num_threads (so torch.set_num_threads) and
// OMP_NUM_THREADS.
inline int threads_for(int64_t work, int64_t grain) {
  const Team* team = Team::current();
  const int64_t divisor = team ? grain_divisor * kTeamGrain : grain_divisor;
  grain = grain > divisor ? grain / divisor : 1;
  if (work < 2 * grain || !(team || may_share())) return 1;
  const int64_t most = team ? team->size() : omp_get_max_threads(), worth = work / grain;
  return static_cast<int>(worth < most ? worth : most);
}

// Multiply-adds below which a second thread costs more than it brings (a parallel region takes a few microseconds).
constexpr int64_t kGrainMacs = int64_t(1) << 19;
constexpr int64_t kGrainBytes = int64_t(1) << 16;

// f(begin, end) on `threads` contiguous shares of [0, n). What f throws on any of them is thrown once all have ended: an
// exception that left a parallel region would end the process.
template <class F>
void parallel_shares(int64_t n, int threads, F&& f) {
  if (threads <= 1 || n <= 1) {
    if (n > 0) f(int64_t(0), n);
    return;
  }
  if (Team* team = Team::current()) {
    threads = threads < team->size() ? threads : team->size();
    using G = std::remove_reference_t<F>;
    team->share(
        n, threads, [](void* p, int64_t b, int64_t e) { (*static_cast<G*>(p))(b, e); },
        const_cast<void*>(static_cast<const void*>(&f)));
    return;
  }
  std::exception_ptr thrown;
  Apart apart(threads);
  std::atomic<int64_t> ended{0};
#pragma omp parallel num_threads(threads)
  {
    const int64_t t = omp_get_thread_num(), count = omp_get_num_threads();
    if (t > 0) apart.begin(static_cast<int>(t));
    const int64_t begin = n * t / count, end = n * (t + 1) / count;
    try {
      if (begin < end) f(begin, end);
    } catch (...) {
#pragma omp critical(qgemm_share_threw)
      thrown = std::current_exception();
    }
    // Not in the region's own barrier, which keeps the core.
    if (t > 0)
      ended.fetch_add(1, std::memory_order_release);
    else
      wait_for([&] { return ended.load(std::memory_order_acquire) == count - 1; });
  }
  if (thrown) std::rethrow_exception(thrown);
}

// A 64-byte aligned buffer that only grows. Make it thread_local: after the first call of a shape nothing is allocated.
template <class T>
class Scratch {
 public:
  ~Scratch() { std::free(data_); }
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  T* get(int64_t count) {
    const size_t bytes = (static_cast<size_t>(count) * sizeof(T) + 127) / 64 * 64;
    if (bytes > bytes_) {
      std::free(data_);
      data_ = std::aligned_alloc(64, bytes);
      bytes_ = data_ ? bytes : 0;
      if (!data_) throw std::bad_alloc();
    }
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace qgemm
