// The threads of a parallel region on cores of their own, and waiting for one another without keeping a core from them.
#pragma once
#include <atomic>
#include <chrono>
#include <thread>

namespace qgemm {

inline void pause_core() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Spins until ready() or for about 100 us; whether it became ready.
template <class F>
bool spin(F&& ready) {
  constexpr auto kSpin = std::chrono::microseconds(100);
  constexpr int kPauses = 64;  // between two looks at the clock
  for (int i = 0; i < kPauses; ++i) {
    if (ready()) return true;
    pause_core();
  }
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < kPauses; ++i) {
      if (ready()) return true;
      pause_core();
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

// Waits for what another thread does, which may need this thread's core for it.
template <class F>
void wait_for(F&& ready) {
  while (!spin(ready)) std::this_thread::yield();
}

// Schedulers now and then wake a thread on the core of the one that woke it, and leave both there for up to a second beside idle
// cores. As libgomp's threads spin while they wait, each then keeps the other from its work for whole time slices: 8 ms for a
// product of 15 us. So each looks where the others are when its share begins, and moves.
class Apart {
 public:
  // By thread 0, before the others begin. threads: how many there will be.
  explicit Apart(int threads);
  // By every other thread when its share begins: moves it to another of its cores where a thread of a lower number was on this
  // one. Its affinity is as before afterwards. Nothing where there are fewer cores than threads.
  void begin(int thread);

 private:
  static constexpr int kMost = 16;  // threads beyond stay where they are
  int threads_;
  std::atomic<int> core_[kMost];
};

}  // namespace qgemm
