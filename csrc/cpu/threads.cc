#include "cpu/threads.h"

#include <omp.h>
#include <pthread.h>

#include <atomic>

namespace qgemm {
namespace {

std::atomic<bool> g_forked{false};
[[maybe_unused]] const int g_registered = pthread_atfork(nullptr, nullptr, [] { g_forked.store(true); });

}  // namespace

bool may_share() { return !omp_in_parallel() && !g_forked.load(std::memory_order_relaxed); }

}  // namespace qgemm
