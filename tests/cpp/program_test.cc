// The arena planner, the team of threads, programs of a few operations, and the drivers that only programs use.
#include "program/program.h"

#include <omp.h>

#include <atomic>
#include <numeric>
#include <thread>

#include "cpu/error.h"
#include "cpu/team.h"
#include "driver_case.h"
#include "ops/eltwise.h"
#include "ops/move.h"
#include "ops/planar.h"
#include "ops/threads.h"

namespace qgemm {
namespace test {
namespace {

TEST(Arena, NothingThatLivesTogetherOverlaps) {
  Rng rng(700);
  for (int i = 0; i < cases(300); ++i) {
    std::vector<Interval> intervals;
    for (int64_t n = rng.between(0, 40); n > 0; --n) {
      const auto first = static_cast<int32_t>(rng.between(0, 30));
      intervals.push_back({rng.between(1, 1000), first, static_cast<int32_t>(rng.between(first, std::min(31, first + 6)))});
    }
    const ArenaPlan plan = plan_arena(intervals);
    int64_t most = 0;
    for (size_t a = 0; a < intervals.size(); ++a) {
      EXPECT_EQ(plan.offset[a] % 64, 0);
      EXPECT_LE(plan.offset[a] + intervals[a].bytes, plan.bytes);
      int64_t alive = 0;
      for (size_t b = 0; b < intervals.size(); ++b) {
        if (intervals[b].first <= intervals[a].first && intervals[a].first <= intervals[b].last) alive += intervals[b].bytes;
        if (a == b || intervals[a].last < intervals[b].first || intervals[b].last < intervals[a].first) continue;
        EXPECT_TRUE(plan.offset[a] + intervals[a].bytes <= plan.offset[b] ||
                    plan.offset[b] + intervals[b].bytes <= plan.offset[a]);
      }
      most = std::max(most, alive);
    }
    EXPECT_EQ(plan.minimum, most);
    EXPECT_GE(plan.bytes, most);
    if (testing::Test::HasFailure()) return;
  }
}

TEST(Arena, AChainNeedsItsTwoLargestNeighbours) {
  // Sizes fall and rise; each lives with the next one only.
  std::vector<Interval> chain;
  const int64_t sizes[] = {6400, 3200, 1600, 640, 64, 640, 1280};
  for (int32_t i = 0; i < 7; ++i) chain.push_back({sizes[i], i, i + 1});
  const ArenaPlan plan = plan_arena(chain);
  EXPECT_EQ(plan.minimum, 9600);
  EXPECT_EQ(plan.bytes, 9600);
}

TEST(Team, EveryShareRunsOnceAndErrorsComeOut) {
  for (const int threads : {2, 3}) {
    std::vector<std::atomic<int>> seen(1000);
    Team::lead(threads, [&] {
      ASSERT_EQ(Team::current()->size(), threads);
      for (int round = 0; round < 200; ++round) {
        if (round % 50 == 49) std::this_thread::sleep_for(std::chrono::milliseconds(1));  // the others fall asleep
        parallel_shares(static_cast<int64_t>(seen.size()), 1 + round % threads, [&](int64_t b, int64_t e) {
          for (; b < e; ++b) ++seen[static_cast<size_t>(b)];
        });
      }
    });
    EXPECT_EQ(Team::current(), nullptr);
    for (const auto& s : seen) ASSERT_EQ(s, 200);
    EXPECT_THROW(Team::lead(threads,
                            [&] {
                              parallel_shares(10, threads, [&](int64_t, int64_t e) {
                                if (e == 10) throw Error(Code::shape, "the last share");
                              });
                            }),
                 Error);
    EXPECT_THROW(Team::lead(threads, [] { throw Error(Code::shape, "the leader"); }), Error);
  }
}

TEST(Team, SeveralLeadersAtOnce) {
  std::atomic<int64_t> total{0};
  std::vector<std::thread> callers;
  for (int i = 0; i < 4; ++i)
    callers.emplace_back([&] {
      for (int round = 0; round < 20; ++round)
        Team::lead(2, [&] {
          for (int k = 0; k < 20; ++k) parallel_shares(64, 2, [&](int64_t b, int64_t e) { total += e - b; });
        });
    });
  for (auto& t : callers) t.join();
  EXPECT_EQ(total, 4 * 20 * 20 * 64);
}

// x -> lut -> t1 -> lut -> t2; t2 + x -> y outside. t2 takes over t1's bytes.
TEST(Program, RunsInItsArenaInPlace) {
  constexpr int64_t kSize = 1000;
  uint8_t add_one[256];
  for (int i = 0; i < 256; ++i) add_one[i] = static_cast<uint8_t>(i + 1);
  Program p;
  const int32_t x = p.outside(kSize), y = p.outside(kSize), t1 = p.arena(kSize), t2 = p.arena(kSize);
  const int32_t table = p.constant(add_one, 256);
  auto step = [&](int32_t from, int32_t to) {
    p.add(
        "lut", {0, 2 * kSize}, {from, to, table},
        [=](Addresses a) {
          lut(reinterpret_cast<uint8_t*>(a[from]), reinterpret_cast<uint8_t*>(a[table]), reinterpret_cast<uint8_t*>(a[to]),
              kSize);
        },
        true);
  };
  p.step(0, "'a' (Lut)");
  step(x, t1);
  step(t1, t2);
  p.step(1, "'b' (Add)");
  p.add("add", {0, 3 * kSize}, {t2, y, x}, [=](Addresses a) {
    OutputSpec out;
    out.type = OutType::u8;
    add(reinterpret_cast<uint8_t*>(a[t2]), {1, 0}, reinterpret_cast<uint8_t*>(a[x]), {1, 0}, reinterpret_cast<uint8_t*>(a[y]),
        kSize, out);
  });
  p.add("throws", {}, {y}, [](Addresses) { throw Error(Code::shape, "no"); });
  p.finish();
  EXPECT_EQ(p.plan().bytes, 1024);
  EXPECT_EQ(p.plan().minimum, kSize);
  std::vector<uint8_t> in(kSize), out(kSize);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<uint8_t>(i % 100);
  auto frame = p.take(), other = p.take();
  for (auto* f : {frame.get(), other.get()}) {
    f->bind(x, in.data());
    f->bind(y, out.data());
    std::fill(out.begin(), out.end(), uint8_t(0));
    std::vector<double> seconds(4, 0.0);
    p.run(*f, 0, 3, seconds.data());
    for (size_t i = 0; i < in.size(); ++i) ASSERT_EQ(out[i], 2 * in[i] + 2);
    EXPECT_GT(seconds[0] + seconds[1] + seconds[2], 0);
  }
  try {
    p.run(*frame, 3, 4);
    FAIL() << "an operation that throws";
  } catch (const Error& e) {
    EXPECT_EQ(std::string(e.what()), "layer 'b' (Add): no");
  }
  p.give(std::move(frame));
  p.give(std::move(other));
}

// Parts of `kPart` bytes: x -> t1 -> t2 -> y within the loop, of which t1 and t2 hold one part; then y -> z, all at once.
TEST(Program, LoopsRunPartByPart) {
  constexpr int64_t kPart = 100, kParts = 7;
  uint8_t add_one[256];
  for (int i = 0; i < 256; ++i) add_one[i] = static_cast<uint8_t>(i + 1);
  Program p;
  const int32_t x = p.outside(kPart * kParts), z = p.outside(kPart * kParts), y = p.arena(kPart * kParts);
  const int32_t t1 = p.arena(kPart), t2 = p.arena(kPart), table = p.constant(add_one, 256);
  bool fails = false;
  auto step = [&](int32_t from, int32_t to, int64_t bytes, bool in_place) {
    p.add(
        "lut", {1 << 20, 2 * bytes}, {from, to, table},
        [=, &fails](Addresses a) {
          if (fails && a[from][0] == 5 + 2) throw Error(Code::shape, "the fifth part");
          for (int64_t i = 0; i < bytes; ++i)
            a[to][i] = static_cast<char>(reinterpret_cast<uint8_t*>(a[table])[static_cast<uint8_t>(a[from][i])]);
        },
        in_place);
  };
  p.begin_loop(kParts);
  p.advance(x, kPart);
  EXPECT_TRUE(p.advance(y, kPart));
  EXPECT_TRUE(p.advance(y, kPart));
  EXPECT_FALSE(p.advance(y, 2 * kPart));
  step(x, t1, kPart, false);
  step(t1, t2, kPart, true);
  p.step(1, "'b' (Lut)");
  step(t2, y, kPart, true);
  p.end_loop();
  step(y, z, kPart * kParts, true);
  p.finish();
  EXPECT_EQ(p.times(0), kParts);
  EXPECT_EQ(p.times(3), 1);
  EXPECT_EQ(p.thread_bytes(), 128);
  EXPECT_EQ(p.plan().bytes, 128 + 704);
  EXPECT_EQ(p.plan().minimum, kPart + kPart * kParts);
  std::vector<uint8_t> in(kPart * kParts), out(kPart * kParts);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<uint8_t>(i / kPart);
  auto frame = p.take();
  frame->bind(x, in.data());
  frame->bind(z, out.data());
  const int before = omp_get_max_threads();
  for (const int threads : {1, 2, 3, 8}) {
    omp_set_num_threads(threads);
    std::fill(out.begin(), out.end(), uint8_t(0));
    std::vector<double> seconds(4, 0.0);
    p.run(*frame, 0, 4, seconds.data());
    for (size_t i = 0; i < in.size(); ++i) ASSERT_EQ(out[i], in[i] + 4) << threads;
    EXPECT_GT(seconds[0] + seconds[1] + seconds[2] + seconds[3], 0);
    fails = true;
    try {
      p.run(*frame, 0, 4);
      FAIL() << "a part that throws";
    } catch (const Error& e) {
      EXPECT_EQ(std::string(e.what()), "layer 'b' (Lut): the fifth part");
    }
    fails = false;
  }
  omp_set_num_threads(before);
  p.give(std::move(frame));
}

// Nothing lives within a part: threads need no memory of their own.
TEST(Program, ALoopOfOneOperation) {
  constexpr int64_t kParts = 6;
  Program p;
  const int32_t x = p.outside(kParts), y = p.outside(kParts);
  p.begin_loop(kParts);
  p.advance(x, 1);
  p.advance(y, 1);
  p.add("next", {1 << 20, 2}, {x, y}, [=](Addresses a) { *a[y] = static_cast<char>(*a[x] + 1); });
  p.end_loop();
  p.finish();
  EXPECT_EQ(p.thread_bytes(), 0);
  std::vector<char> in{1, 2, 3, 4, 5, 6}, out(kParts);
  auto frame = p.take();
  frame->bind(x, in.data());
  frame->bind(y, out.data());
  const int before = omp_get_max_threads();
  omp_set_num_threads(4);
  p.run(*frame, 0, 1);
  omp_set_num_threads(before);
  EXPECT_EQ(out, (std::vector<char>{2, 3, 4, 5, 6, 7}));
}

TEST(Ops, CopyStrided) {
  Rng rng(701);
  Guarded memory(1 << 18);
  Output got(1 << 18);
  for (int i = 0; i < cases(500); ++i) {
    Strided s;
    s.rank = static_cast<int>(rng.between(1, 5));
    s.element = rng.pick<int64_t>({1, 1, 2, 4, 8});
    // A dense array in a random order of axes, from which every axis but the innermost may be cut or repeated.
    int order[Strided::kMaxRank];
    std::iota(order, order + s.rank, 0);
    for (int a = s.rank - 1; a > 0; --a) std::swap(order[a], order[rng.between(0, a)]);
    int64_t step = s.element, count = 1, last = 0;
    for (int a = 0; a < s.rank; ++a) {
      const int64_t whole = i % 25 == 0 && a < 2 ? rng.between(100, 120) : rng.between(1, 7);
      s.shape[order[a]] = rng.chance(70) ? whole : rng.between(1, whole);
      s.stride[order[a]] = rng.chance(5) ? 0 : step;
      step *= whole;
      count *= s.shape[order[a]];
    }
    for (int a = 0; a < s.rank; ++a) last += (s.shape[a] - 1) * s.stride[a];
    if (count * s.element > (1 << 17) || last > (1 << 17)) continue;
    uint8_t* x = memory.place<uint8_t>(static_cast<size_t>(last + s.element), Side::end);
    fill(rng, any_mood(rng), x, last + s.element);
    std::vector<uint8_t> want;
    for (int64_t e = 0; e < count; ++e) {
      int64_t left = e, offset = 0;
      for (int a = s.rank - 1; a >= 0; --a) {
        offset += left % s.shape[a] * s.stride[a];
        left /= s.shape[a];
      }
      want.insert(want.end(), x + offset, x + offset + s.element);
    }
    now_testing("copy_strided rank=%d element=%d count=%d", s.rank, int(s.element), int(count));
    const Strided simple = simplified(s);
    const auto bytes = static_cast<int64_t>(want.size());
    if (!same_everywhere(got, want, 1, bytes, bytes, Side::end, [&](void* y) { copy_strided(x, simple, y); })) return;
  }
}

TEST(Ops, CopyAndFillRuns) {
  Rng rng(702);
  Guarded memory(1 << 18);
  Output got(1 << 18);
  for (int i = 0; i < cases(300); ++i) {
    std::vector<CopyRun> runs;
    int64_t to = 0;
    const int64_t size = i % 20 == 0 ? 150000 : rng.between(1, 600);
    uint8_t* x = memory.place<uint8_t>(static_cast<size_t>(size), Side::end);
    fill(rng, Mood::uniform, x, size);
    const auto value = static_cast<uint8_t>(rng.between(0, 255));
    std::vector<uint8_t> want;
    std::vector<CopyRun> fills;
    while (to < size) {
      CopyRun r{};
      r.bytes = std::min(size - to, rng.pick<int64_t>({1, 2, 3, 4, 8, 16, rng.between(1, 3000)}));
      r.count = rng.between(1, std::min<int64_t>((size - to) / r.bytes, 40));
      r.to = to;
      r.to_step = r.bytes;
      r.from = rng.between(0, size - r.bytes);
      r.from_step = r.count > 1 ? rng.between(-(r.from / (r.count - 1)), (size - r.bytes - r.from) / (r.count - 1)) : 0;
      to += r.bytes * r.count;
      const bool constant = rng.chance(20);
      (constant ? fills : runs).push_back(r);
      for (int64_t k = 0; k < r.count; ++k)
        for (int64_t b = 0; b < r.bytes; ++b) want.push_back(constant ? value : x[r.from + k * r.from_step + b]);
    }
    now_testing("copy_runs size=%d runs=%d", int(size), int(runs.size()));
    if (!same_everywhere(got, want, 1, size, size, Side::end, [&](void* y) {
          copy_runs(x, y, runs);
          fill_runs(y, value, fills);
        }))
      return;
  }
}

TEST(Ops, QuantizePlanes) {
  Rng rng(703);
  Guarded x_memory(1 << 20);
  Output got(1 << 19);
  for (int i = 0; i < cases(300); ++i) {
    const int64_t batch = rng.between(1, 3), channels = rng.pick<int64_t>({1, 2, 3, 3, 4, 17, 20}),
                  pixels = i % 10 == 0 ? rng.between(1000, 3100) : rng.between(1, 70), n = batch * channels * pixels;
    float* x = x_memory.place<float>(static_cast<size_t>(n), Side::end);
    for (int64_t j = 0; j < n; ++j) x[j] = rng.uniform(-300, 300);
    const float scale = rng.pick({1.0f, 0.5f, rng.uniform(0.001f, 2)});
    const auto qmax = static_cast<int32_t>(rng.pick<int64_t>({255, 15})), zero_point = static_cast<int32_t>(rng.between(0, qmax));
    now_testing("quantize_planes batch=%d channels=%d pixels=%d", int(batch), int(channels), int(pixels));
    std::vector<uint8_t> want(static_cast<size_t>(n));
    for (int64_t b = 0; b < batch; ++b)
      for (int64_t c = 0; c < channels; ++c)
        for (int64_t k = 0; k < pixels; ++k) {
          const double q = std::nearbyint(double(x[(b * channels + c) * pixels + k] * (1.0f / scale))) + zero_point;
          want[static_cast<size_t>((b * pixels + k) * channels + c)] = static_cast<uint8_t>(q < 0 ? 0 : q > qmax ? qmax : q);
        }
    if (!same_everywhere(got, want, 1, n, n, Side::end, [&](void* q) {
          quantize_planes(x, batch, channels, pixels, scale, zero_point, qmax, static_cast<uint8_t*>(q));
        }))
      return;
  }
}

}  // namespace
}  // namespace test
}  // namespace qgemm
