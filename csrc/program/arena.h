// Where the tensors of a program lie: each has a first and a last operation, and those that never live together share bytes.
#pragma once
#include <cstdint>
#include <vector>

namespace qgemm {

// bytes > 0 are needed from operation `first` to operation `last`, both included.
struct Interval {
  int64_t bytes;
  int32_t first, last;
};

struct ArenaPlan {
  std::vector<int64_t> offset;  // multiples of 64, one an interval
  int64_t bytes = 0;            // of the arena
  int64_t minimum = 0;          // the largest sum of bytes that live at one operation: no plan can be smaller
};

// Greedy: the largest interval first, each into the smallest gap that holds it among those it lives with.
ArenaPlan plan_arena(const std::vector<Interval>& intervals);

}  // namespace qgemm
