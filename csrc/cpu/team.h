// The threads of one parallel region that lasts for a whole inference. Thread 0 leads: it walks the operations, and hands each
// one's shares to the others, who wait for them. A hand-over takes a fraction of a microsecond, where a parallel region of its
// own takes several.
#pragma once
#include <cstdint>
#include <exception>
#include <memory>

namespace qgemm {

class Team {
 public:
  // The team that this thread leads, or null.
  static Team* current();

  int size() const { return size_; }

  // f(context, begin, end) on `threads` <= size() contiguous shares of [0, n), the first on this thread; returns when all have
  // ended and throws what one of them threw. f may not use the team.
  void share(int64_t n, int threads, void (*f)(void*, int64_t, int64_t), void* context);

  // Runs body() as the leader of up to `threads` threads. What it throws comes out after the region.
  template <class F>
  static void lead(int threads, F&& body) {
    lead_erased(
        threads, [](void* p) { (*static_cast<F*>(p))(); }, &body);
  }

  ~Team();

 private:
  struct Job;
  struct Slot;
  Team() = default;
  static void lead_erased(int threads, void (*body)(void*), void* context);
  void reserve(int threads);
  void post(int thread, Job* job);
  void serve(int thread);

  int size_ = 1, reserved_ = 1;
  std::unique_ptr<Slot[]> slots_;
};

}  // namespace qgemm
