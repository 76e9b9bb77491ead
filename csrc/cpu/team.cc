#include "cpu/team.h"

#include <omp.h>

#include <atomic>
#include <condition_variable>
#include <mutex>

#include "cpu/apart.h"

namespace qgemm {
namespace {

thread_local Team* t_current = nullptr;

}  // namespace

struct Team::Job {
  int64_t n;
  int threads;
  void (*f)(void*, int64_t, int64_t);
  void* context;
  Apart apart;
  std::mutex mutex;
  std::exception_ptr thrown;

  void run(int64_t t) {
    const int64_t begin = n * t / threads, end = n * (t + 1) / threads;
    try {
      if (begin < end) f(context, begin, end);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex);
      thrown = std::current_exception();
    }
  }
};

// One worker's mailbox. The worker empties it when its share is done, which is what the leader waits for.
struct alignas(64) Team::Slot {
  std::atomic<Job*> job{nullptr};
  std::atomic<bool> asleep{false};
  std::mutex mutex;
  std::condition_variable wake;
};

Team::~Team() = default;

Team* Team::current() { return t_current; }

void Team::reserve(int threads) {
  if (threads <= reserved_) return;
  slots_ = std::make_unique<Slot[]>(static_cast<size_t>(threads));
  reserved_ = threads;
}

// Sequentially consistent on both sides: either the leader sees that the worker sleeps, or the worker sees the job.
void Team::post(int thread, Job* job) {
  Slot& s = slots_[static_cast<size_t>(thread)];
  s.job.store(job);
  if (!s.asleep.load()) return;
  const std::lock_guard<std::mutex> lock(s.mutex);
  s.wake.notify_one();
}

namespace {
// What a worker gets when the leader has no more work; compared by address.
char g_dismissal;
}  // namespace

void Team::serve(int thread) {
  Slot& s = slots_[static_cast<size_t>(thread)];
  Job* const dismissal = reinterpret_cast<Job*>(&g_dismissal);
  for (;;) {
    Job* job = nullptr;
    // A thread that waits for long sleeps: the leader is in a long operation of its own.
    if (!spin([&] { return (job = s.job.load(std::memory_order_acquire)) != nullptr; })) {
      std::unique_lock<std::mutex> lock(s.mutex);
      s.asleep.store(true);
      s.wake.wait(lock, [&] { return (job = s.job.load()) != nullptr; });
      s.asleep.store(false);
    }
    if (job == dismissal) {
      s.job.store(nullptr, std::memory_order_release);
      return;
    }
    job->apart.begin(thread);
    job->run(thread);
    s.job.store(nullptr, std::memory_order_release);
  }
}

void Team::share(int64_t n, int threads, void (*f)(void*, int64_t, int64_t), void* context) {
  Job job{n, threads, f, context, Apart(threads), {}, nullptr};
  for (int t = 1; t < threads; ++t) post(t, &job);
  t_current = nullptr;
  job.run(0);
  t_current = this;
  for (int t = 1; t < threads; ++t) {
    Slot& s = slots_[static_cast<size_t>(t)];
    wait_for([&] { return s.job.load(std::memory_order_acquire) == nullptr; });
  }
  if (job.thrown) std::rethrow_exception(job.thrown);
}

void Team::lead_erased(int threads, void (*body)(void*), void* context) {
  static thread_local Team own;
  Team& team = own;
  team.reserve(threads);
  std::exception_ptr thrown;
  std::atomic<int> gone{0};
#pragma omp parallel num_threads(threads)
  {
    const int t = omp_get_thread_num();
    if (t > 0) {
      team.serve(t);
      gone.fetch_add(1, std::memory_order_release);
    } else {
      team.size_ = omp_get_num_threads();
      t_current = &team;
      try {
        body(context);
      } catch (...) {
        thrown = std::current_exception();
      }
      t_current = nullptr;
      for (int i = 1; i < team.size_; ++i) team.post(i, reinterpret_cast<Job*>(&g_dismissal));
      wait_for([&] { return gone.load(std::memory_order_acquire) == team.size_ - 1; });
    }
  }
  if (thrown) std::rethrow_exception(thrown);
}

}  // namespace qgemm
