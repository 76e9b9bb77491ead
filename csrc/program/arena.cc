#include "program/arena.h"

#include <algorithm>
#include <numeric>

namespace qgemm {
namespace {

constexpr int64_t kAlign = 64;

int64_t aligned(int64_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

int64_t most_alive(const std::vector<Interval>& intervals) {
  int32_t last = -1;
  for (const Interval& i : intervals) last = std::max(last, i.last);
  std::vector<int64_t> change(static_cast<size_t>(last + 2), 0);
  for (const Interval& i : intervals) {
    change[static_cast<size_t>(i.first)] += i.bytes;
    change[static_cast<size_t>(i.last) + 1] -= i.bytes;
  }
  int64_t alive = 0, most = 0;
  for (const int64_t c : change) most = std::max(most, alive += c);
  return most;
}

// The offset of the smallest hole of at least `bytes` between `taken` (sorted by offset), or behind all of them.
int64_t best_fit(const std::vector<std::pair<int64_t, int64_t>>& taken, int64_t bytes) {
  int64_t end = 0, best = -1, best_size = 0;
  for (const auto& t : taken) {
    const int64_t hole = t.first - end;
    if (hole >= bytes && (best < 0 || hole < best_size)) best = end, best_size = hole;
    end = std::max(end, t.second);
  }
  return best < 0 ? end : best;
}

}  // namespace

ArenaPlan plan_arena(const std::vector<Interval>& intervals) {
  ArenaPlan plan;
  plan.offset.assign(intervals.size(), 0);
  plan.minimum = most_alive(intervals);
  std::vector<size_t> order(intervals.size());
  std::iota(order.begin(), order.end(), size_t(0));
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return intervals[a].bytes > intervals[b].bytes; });
  std::vector<size_t> placed;
  std::vector<std::pair<int64_t, int64_t>> taken;
  for (const size_t k : order) {
    const Interval& i = intervals[k];
    taken.clear();
    for (const size_t p : placed)
      if (intervals[p].first <= i.last && i.first <= intervals[p].last)
        taken.emplace_back(plan.offset[p], plan.offset[p] + aligned(intervals[p].bytes));
    std::sort(taken.begin(), taken.end());
    plan.offset[k] = best_fit(taken, aligned(i.bytes));
    plan.bytes = std::max(plan.bytes, plan.offset[k] + aligned(i.bytes));
    placed.push_back(k);
  }
  return plan;
}

}  // namespace qgemm
