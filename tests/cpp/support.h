// Shared by the native tests: repeatable random numbers, memory with unreadable pages on both sides, output with canary margins.
#pragma once
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <string>
#include <vector>

#include "cpu/dispatch.h"

namespace qgemm {
namespace test {

// QGEMM_TEST_SEED, 0 where it is not set: every value gives other random cases, so that a long run can be cut into pieces.
uint64_t run_seed();

// splitmix64: a few instructions a number, and any seed is a good one.
class Rng {
 public:
  explicit Rng(uint64_t seed) : state_(seed + (run_seed() << 32)) {}
  uint64_t next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  }
  // Both ends included.
  int64_t between(int64_t lo, int64_t hi) { return lo + static_cast<int64_t>(next() % static_cast<uint64_t>(hi - lo + 1)); }
  float uniform(float lo, float hi) { return lo + (hi - lo) * static_cast<float>(next() >> 40) * 0x1p-24f; }
  bool chance(int percent) { return between(1, 100) <= percent; }
  template <class T>
  T pick(std::initializer_list<T> values) {
    return values.begin()[between(0, static_cast<int64_t>(values.size()) - 1)];
  }
  template <class T>
  T pick(const std::vector<T>& values) {
    return values[static_cast<size_t>(between(0, static_cast<int64_t>(values.size()) - 1))];
  }

 private:
  uint64_t state_;
};

enum class Side { start, end };

// Memory between two pages that fault on any access. `place` puts an operand flush against one of them, so that reading or
// writing one byte before its start or after its end ends the test.
class Guarded {
 public:
  explicit Guarded(size_t capacity);
  ~Guarded();
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;

  uint8_t* begin() const { return data_; }
  size_t capacity() const { return capacity_; }

  template <class T>
  T* place(size_t count, Side side) {
    const size_t bytes = count * sizeof(T);
    EXPECT_LE(bytes, capacity_) << "a test case is larger than its guarded memory";
    return reinterpret_cast<T*>(side == Side::start ? data_ : data_ + capacity_ - bytes);
  }
  template <class T>
  T* place(const std::vector<T>& values, Side side) {
    T* p = place<T>(values.size(), side);
    if (!values.empty()) std::memcpy(p, values.data(), values.size() * sizeof(T));
    return p;
  }

 private:
  uint8_t* data_;
  size_t capacity_;
};

// An output of `rows` x `row_bytes`, `ld` bytes apart, in guarded memory with a pattern before, between and after its rows.
class Output {
 public:
  explicit Output(size_t capacity) : memory_(capacity) {}
  uint8_t* place(int64_t rows, int64_t row_bytes, int64_t ld, Side side);
  // Bytes of row r.
  const uint8_t* row(int64_t r) const { return at_ + r * ld_; }
  // True when every byte outside the rows still holds the pattern.
  bool margins_intact() const;

 private:
  Guarded memory_;
  uint8_t* at_ = nullptr;
  const uint8_t *begin_ = nullptr, *end_ = nullptr;  // of the pattern
  int64_t rows_ = 0, row_bytes_ = 0, ld_ = 0;
};

// Text printed when the current case faults: printf arguments.
void now_testing(const char* format, ...) __attribute__((format(printf, 1, 2)));
const char* current_case();

// Number of random cases: QGEMM_TEST_PERCENT scales every count, for slow builds (sanitizers, emulators); QGEMM_TEST_CASES is the
// least number of each, for long runs.
int cases(int count);

// Values 0..255 or -128..127 in one of four moods: uniform, all low, all high, the two extremes mixed.
enum class Mood { uniform, low, high, extremes };
Mood any_mood(Rng& rng);
void fill(Rng& rng, Mood mood, uint8_t* p, int64_t n);
void fill(Rng& rng, Mood mood, int8_t* p, int64_t n, int lo = -128, int hi = 127);

// The kernel of a row, typed.
template <class Args>
KernelFn<Args> kernel(const KernelRow& row) {
  return reinterpret_cast<KernelFn<Args>>(row.fn);
}

// Every ISA path this CPU can run, the reference first.
std::vector<Isa> runnable_isas();

// Forces an ISA path for a scope.
class Forced {
 public:
  explicit Forced(Isa isa) { force_isa(isa_name(isa)); }
  ~Forced() { force_isa(nullptr); }
};

}  // namespace test
}  // namespace qgemm
