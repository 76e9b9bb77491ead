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
  std::vector<Interval> intervals;
  std::vector<size_t> index(count, 0);
  for (size_t b = 0; b < count; ++b)
    if (buffers_[b].kind == Kind::arena && group[b] == b && life[b].last >= 0) {
      index[b] = intervals.size();
      intervals.push_back({buffers_[b].bytes, life[b].first, life[b].last});
    }
  plan_ = plan_arena(intervals);
  place_.assign(count, -1);
  for (size_t b = 0; b < count; ++b)
    if (buffers_[b].kind == Kind::arena && life[group[b]].last >= 0) place_[b] = plan_.offset[index[group[b]]];
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
  const size_t bytes = static_cast<size_t>(plan_.bytes) + 64;  // never empty
  f->arena_.reset(std::aligned_alloc(64, bytes));
  if (!f->arena_) throw std::bad_alloc();
  // Touched now, so that the first inference does not pay for page faults; and no run depends on what was there before.
  std::memset(f->arena_.get(), 0, bytes);
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

void Program::run(Addresses addresses, size_t begin, size_t end, double* seconds) const {
  int threads = 1;
  if (may_share()) {
    int64_t work = 0;
    for (size_t i = begin; i < end; ++i) work += ops_[i].work.macs + kByteCost * ops_[i].work.bytes;
    if (work >= kTeamWork / grain_divisor) threads = omp_get_max_threads();
  }
  if (threads > 1)
    Team::lead(threads, [&] { run_ops(addresses, begin, end, seconds); });
  else
    run_ops(addresses, begin, end, seconds);
}

}  // namespace qgemm
