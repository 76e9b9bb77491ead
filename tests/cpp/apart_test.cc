// The threads of a region on cores of their own.
#include "cpu/apart.h"

#ifdef __linux__
#include <gtest/gtest.h>
#include <sched.h>

#include <chrono>
#include <thread>

namespace qgemm {
namespace {

cpu_set_t affinity() {
  cpu_set_t set;
  EXPECT_EQ(sched_getaffinity(0, sizeof set, &set), 0);
  return set;
}

TEST(Apart, AThreadLeavesTheCoreOfALowerOneAndKeepsItsAffinity) {
  const cpu_set_t all = affinity();
  if (CPU_COUNT(&all) < 2) GTEST_SKIP() << "this process has one core: there is none to move to";
  int moved = 0;
  for (int attempt = 0; attempt < 20 && moved == 0; ++attempt) {
    Apart apart(2);
    const int core = sched_getcpu();
    std::thread other([&] {
      cpu_set_t here;
      CPU_ZERO(&here);
      CPU_SET(core, &here);
      ASSERT_EQ(sched_setaffinity(0, sizeof here, &here), 0);
      apart.begin(1);  // bound to one core: fewer than threads, so it stays
      EXPECT_EQ(sched_getcpu(), core);
      ASSERT_EQ(sched_setaffinity(0, sizeof all, &all), 0);
      std::this_thread::sleep_for(std::chrono::milliseconds(3));  // moves are that far apart
      const int before = sched_getcpu();
      apart.begin(1);
      const cpu_set_t after = affinity();
      EXPECT_TRUE(CPU_EQUAL(&after, &all));
      if (before == core && sched_getcpu() != core) ++moved;
    });
    other.join();
  }
  EXPECT_GT(moved, 0);  // in some attempt the system had not moved it first
}

}  // namespace
}  // namespace qgemm
#endif
