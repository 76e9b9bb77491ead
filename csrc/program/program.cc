#include "program/program.h"

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <numeric>
#include <utility>

#include "cpu/error.h"
#include "cpu/team.h"
#include "cpu/threads.h"
#include "ops/threads.h"

namespace qgemm {
namespace {

constexpr size_t kIdleFrames = 4;       // kept for the next calls; more callers at once get frames of their own
constexpr int64_t kByteCost = 4;        // multiply-adds that take about as long as moving a byte
constexpr int64_t kTeamWork = 1 << 20;  // multiply-adds below which waking other threads takes longer than the work

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace

void Program::Frame::Free::operator()(void* p) const { std::free(p); }

// Touched at once, so that the first inference does not pay for page faults; and no run depends on what was there before.
std::unique_ptr<void, Program::Frame::Free> Program::Frame::cleared(int64_t count) {
  const size_t bytes = (static_cast<size_t>(count) + 127) / 64 * 64;  // never empty
  std::unique_ptr<void, Free> memory(std::aligned_alloc(64, bytes));
  if (!memory) throw std::bad_alloc();
  std::memset(memory.get(), 0, bytes);
  return memory;
}

void Program::Frame::reserve(int threads, int64_t bytes) {
  while (scratch_.size() < static_cast<size_t>(threads)) scratch_.push_back(cleared(bytes));
}

int32_t Program::buffer(Kind kind, int64_t bytes, const void* address) {
  buffers_.push_back({kind, bytes, address});
  return static_cast<int32_t>(buffers_.size() - 1);
}

int32_t Program::arena(int64_t bytes) { return buffer(Kind::arena, std::max<int64_t>(bytes, 1), nullptr); }
int32_t Program::constant(const void* address, int64_t bytes) { return buffer(Kind::constant, bytes, address); }
int32_t Program::outside(int64_t bytes) { return buffer(Kind::outside, bytes, nullptr); }
int64_t Program::buffer_bytes(int32_t b) const { return buffers_.at(static_cast<size_t>(b)).bytes; }

void Program::add(std::string kernel, Work work, std::vector<int32_t> uses, Run run, bool in_place) {
  ops_.push_back({step_, layer_, std::move(kernel), std::move(run), work});
  uses_.push_back({std::move(uses), in_place});
}

void Program::truncate(size_t count) {
  ops_.erase(ops_.begin() + static_cast<std::ptrdiff_t>(count), ops_.end());
  uses_.erase(uses_.begin() + static_cast<std::ptrdiff_t>(count), uses_.end());
}

void Program::begin_loop(int64_t times) { loops_.push_back({ops_.size(), 0, times, {}, {}}); }

bool Program::advance(int32_t buffer, int64_t step) {
  for (const auto& known : loops_.back().advance)
    if (known.first == buffer) return known.second == step;
  loops_.back().advance.emplace_back(buffer, step);
  return true;
}

void Program::end_loop() { loops_.back().end = ops_.size(); }

int64_t Program::times(size_t op) const {
  for (const Loop& l : loops_)
    if (l.begin <= op && op < l.end) return l.times;
  return 1;
}

void Program::finish() {
  constexpr int32_t kNever = std::numeric_limits<int32_t>::max();
  const size_t count = buffers_.size();
  std::vector<Interval> life(count, Interval{0, kNever, -1});
  for (size_t i = 0; i < uses_.size(); ++i)
    for (const int32_t b : uses_[i].buffers) {
      Interval& l = life[static_cast<size_t>(b)];
      l.first = std::min(l.first, static_cast<int32_t>(i));
      l.last = static_cast<int32_t>(i);
    }
  // A later part may find what an earlier one has left: all of a loop is one moment for the buffers that advance.
  for (const Loop& loop : loops_)
    for (const auto& a : loop.advance) {
      Interval& l = life[static_cast<size_t>(a.first)];
      l.first = std::min(l.first, static_cast<int32_t>(loop.begin));
      l.last = std::max(l.last, static_cast<int32_t>(loop.end) - 1);
    }
  // Buffers that take over another's bytes form a group that is planned as one.
  std::vector<size_t> group(count);
  std::iota(group.begin(), group.end(), size_t(0));
  for (size_t i = 0; i < uses_.size(); ++i) {
    if (!uses_[i].in_place) continue;
    const auto from = static_cast<size_t>(uses_[i].buffers[0]), to = static_cast<size_t>(uses_[i].buffers[1]);
    const size_t g = group[from];
    if (buffers_[from].kind != Kind::arena || buffers_[to].kind != Kind::arena || from == to || group[to] != to ||
        buffers_[from].bytes != buffers_[to].bytes || life[g].last != static_cast<int32_t>(i) ||
        life[to].first != static_cast<int32_t>(i))
      continue;
    group[to] = g;
    life[g].last = life[to].last;
  }
  // Each loop's own buffers are planned by themselves, and then are one interval of the arena.
  constexpr size_t kOutside = std::numeric_limits<size_t>::max();
  std::vector<size_t> loop_of(count, kOutside), index(count, 0);
  for (size_t b = 0; b < count; ++b) {
    if (buffers_[b].kind != Kind::arena || life[group[b]].last < 0) continue;
    const auto first = static_cast<size_t>(life[group[b]].first), last = static_cast<size_t>(life[group[b]].last);
    for (size_t k = 0; k < loops_.size(); ++k) {
      const Loop& l = loops_[k];
      const bool moves =
          std::any_of(l.advance.begin(), l.advance.end(), [&](const auto& a) { return a.first == static_cast<int32_t>(b); });
      if (first >= l.begin && last < l.end && !moves) loop_of[b] = k;
    }
  }
  std::vector<std::vector<Interval>> intervals(loops_.size() + 1);
  std::vector<Interval>& outside = intervals.back();
  for (size_t b = 0; b < count; ++b)
    if (buffers_[b].kind == Kind::arena && group[b] == b && life[b].last >= 0) {
      std::vector<Interval>& of = loop_of[b] == kOutside ? outside : intervals[loop_of[b]];
      index[b] = of.size();
      of.push_back({buffers_[b].bytes, life[b].first, life[b].last});
    }
  std::vector<ArenaPlan> plans;
  std::vector<Interval> least = outside;
  for (size_t k = 0; k < loops_.size(); ++k) {
    Loop& l = loops_[k];
    plans.push_back(plan_arena(intervals[k]));
    l.bytes = plans[k].bytes;
    thread_bytes_ = std::max(thread_bytes_, l.bytes);
    const auto first = static_cast<int32_t>(l.begin), last = static_cast<int32_t>(l.end) - 1;
    outside.push_back({l.bytes, first, last});
    least.push_back({plans[k].minimum, first, last});
  }
  plan_ = plan_arena(outside);
  plan_.minimum = plan_arena(least).minimum;
  for (size_t k = 0; k < loops_.size(); ++k) loops_[k].at = plan_.offset[plan_.offset.size() - loops_.size() + k];
  cost_.assign(1, 0);
  for (size_t i = 0; i < ops_.size(); ++i)
    cost_.push_back(cost_.back() + (ops_[i].work.macs + kByteCost * ops_[i].work.bytes) * times(i));
  place_.assign(count, -1);
  for (size_t b = 0; b < count; ++b) {
    if (buffers_[b].kind != Kind::arena || life[group[b]].last < 0) continue;
    const size_t k = loop_of[group[b]], i = index[group[b]];
    place_[b] = k == kOutside ? plan_.offset[i] : loops_[k].at + plans[k].offset[i];
    if (k != kOutside) loops_[k].within.push_back(static_cast<int32_t>(b));
  }
}

std::unique_ptr<Program::Frame> Program::take() const {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!idle_.empty()) {
      std::unique_ptr<Frame> f = std::move(idle_.back());
      idle_.pop_back();
      return f;
    }
  }
  auto f = std::make_unique<Frame>();
  f->arena_ = Frame::cleared(plan_.bytes);
  f->at_.assign(buffers_.size(), nullptr);
  for (size_t b = 0; b < buffers_.size(); ++b) {
    if (buffers_[b].kind == Kind::constant) f->at_[b] = static_cast<char*>(const_cast<void*>(buffers_[b].address));
    if (place_[b] >= 0) f->at_[b] = static_cast<char*>(f->arena_.get()) + place_[b];
  }
  return f;
}

void Program::give(std::unique_ptr<Frame> frame) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (idle_.size() < kIdleFrames) idle_.push_back(std::move(frame));
}

void Program::run_ops(Addresses addresses, size_t begin, size_t end, double* seconds) const {
  size_t i = begin;
  try {
    if (!seconds) {
      for (; i < end; ++i) ops_[i].run(addresses);
      return;
    }
    double before = now();
    for (; i < end; ++i) {
      ops_[i].run(addresses);
      const double after = now();
      seconds[i] += after - before;
      before = after;
    }
  } catch (const Error& e) {
    throw Error(e.code(), "layer " + ops_[i].layer + ": " + e.what());
  }
}

void Program::run_loop(const Loop& loop, Frame& frame, double* seconds) const {
  // Parts [first, last) in the memory that begins at `own`.
  const auto parts = [&](int64_t first, int64_t last, char* own, double* to) {
    static thread_local std::vector<char*> moved;
    moved.assign(frame.at_.begin(), frame.at_.end());
    const char* arena = static_cast<char*>(frame.arena_.get()) + loop.at;
    for (const int32_t b : loop.within) moved[static_cast<size_t>(b)] = own + (moved[static_cast<size_t>(b)] - arena);
    for (const auto& a : loop.advance) moved[static_cast<size_t>(a.first)] += first * a.second;
    for (int64_t i = first; i < last; ++i) {
      run_ops(moved.data(), loop.begin, loop.end, to);
      for (const auto& a : loop.advance) moved[static_cast<size_t>(a.first)] += a.second;
    }
  };
  char* own = static_cast<char*>(frame.arena_.get()) + loop.at;
  const Team* team = Team::current();
  const int64_t threads = team ? team->size() : 1, shared = threads > 1 ? loop.times / threads * threads : 0;
  // Every thread takes whole parts; what is left over is shared operation by operation.
  if (shared > 0)
    parallel_shares(shared, static_cast<int>(threads), [&](int64_t first, int64_t last) {
      const auto thread = static_cast<size_t>(first / (shared / threads));
      parts(first, last, thread > 0 ? static_cast<char*>(frame.scratch_[thread - 1].get()) : own, thread > 0 ? nullptr : seconds);
    });
  if (shared < loop.times) parts(shared, loop.times, own, seconds);
}

void Program::run_all(Frame& frame, size_t begin, size_t end, double* seconds) const {
  size_t i = begin;
  for (const Loop& l : loops_) {
    if (l.begin < i || l.end > end) continue;
    run_ops(frame.addresses(), i, l.begin, seconds);
    run_loop(l, frame, seconds);
    i = l.end;
  }
  run_ops(frame.addresses(), i, end, seconds);
}

void Program::run(Frame& frame, size_t begin, size_t end, double* seconds) const {
  int threads = 1;
  if (may_share() && cost_[end] - cost_[begin] >= kTeamWork / grain_divisor) threads = omp_get_max_threads();
  if (threads == 1) return run_all(frame, begin, end, seconds);
  if (!loops_.empty()) frame.reserve(threads - 1, thread_bytes_);
  Team::lead(threads, [&] { run_all(frame, begin, end, seconds); });
}

}  // namespace qgemm
