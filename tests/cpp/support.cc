#include "support.h"

#include <sys/mman.h>
#include <unistd.h>

#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <new>

namespace qgemm {
namespace test {
namespace {

constexpr uint8_t kCanary = 0xA5;
constexpr ptrdiff_t kMargin = 1024;  // bytes of pattern before and after an output

char g_case[512];

#if !defined(__SANITIZE_ADDRESS__)
void report_fault(int signal) {
  static const char text[] = "\nfault (out-of-bounds access?) in: ";
  ssize_t ignored = write(2, text, sizeof(text) - 1);
  ignored = write(2, g_case, std::strlen(g_case));
  ignored = write(2, "\n", 1);
  static_cast<void>(ignored);
  std::signal(signal, SIG_DFL);
  raise(signal);
}

const bool g_installed = [] {
  std::signal(SIGSEGV, report_fault);
  std::signal(SIGBUS, report_fault);
  return true;
}();
#endif

}  // namespace

Guarded::Guarded(size_t capacity) {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  capacity_ = (capacity + page - 1) / page * page;
  void* p = mmap(nullptr, capacity_ + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  data_ = static_cast<uint8_t*>(p) + page;
  if (mprotect(data_, capacity_, PROT_READ | PROT_WRITE) != 0) throw std::bad_alloc();
}

Guarded::~Guarded() {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  munmap(data_ - page, capacity_ + 2 * page);
}

uint8_t* Output::place(int64_t rows, int64_t row_bytes, int64_t ld, Side side) {
  rows_ = rows;
  row_bytes_ = row_bytes;
  ld_ = ld;
  const int64_t span = rows > 0 ? (rows - 1) * ld + row_bytes : 0;
  at_ = memory_.place<uint8_t>(static_cast<size_t>(span), side);
  const uint8_t *first = memory_.begin(), *last = first + memory_.capacity();
  begin_ = at_ - first > kMargin ? at_ - kMargin : first;
  end_ = last - (at_ + span) > kMargin ? at_ + span + kMargin : last;
  std::memset(const_cast<uint8_t*>(begin_), kCanary, static_cast<size_t>(end_ - begin_));
  return at_;
}

bool Output::margins_intact() const {
  const uint8_t* p = begin_;
  for (int64_t r = 0; r < rows_; ++r) {
    for (; p < row(r); ++p)
      if (*p != kCanary) return false;
    p = row(r) + row_bytes_;
  }
  for (; p < end_; ++p)
    if (*p != kCanary) return false;
  return true;
}

void now_testing(const char* format, ...) {
  va_list args;
  va_start(args, format);
  std::vsnprintf(g_case, sizeof(g_case), format, args);
  va_end(args);
}

const char* current_case() { return g_case; }

int cases(int count) {
  static const int percent = [] {
    const char* text = std::getenv("QGEMM_TEST_PERCENT");
    return text ? std::atoi(text) : 100;
  }();
  static const int64_t least = [] {
    const char* text = std::getenv("QGEMM_TEST_CASES");
    return text ? std::atoll(text) : 1;
  }();
  const int64_t n = int64_t(count) * percent / 100;
  return static_cast<int>(n < least ? least : n);
}

uint64_t run_seed() {
  static const uint64_t seed = [] {
    const char* text = std::getenv("QGEMM_TEST_SEED");
    return text ? std::strtoull(text, nullptr, 10) : 0;
  }();
  return seed;
}

Mood any_mood(Rng& rng) {
  const int roll = static_cast<int>(rng.between(0, 9));
  return roll < 6 ? Mood::uniform : roll < 7 ? Mood::low : roll < 8 ? Mood::high : Mood::extremes;
}

void fill(Rng& rng, Mood mood, uint8_t* p, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    switch (mood) {
      case Mood::uniform:
        p[i] = static_cast<uint8_t>(rng.next() >> 56);
        break;
      case Mood::low:
        p[i] = 0;
        break;
      case Mood::high:
        p[i] = 255;
        break;
      case Mood::extremes:
        p[i] = rng.next() >> 63 ? 255 : 0;
        break;
    }
  }
}

void fill(Rng& rng, Mood mood, int8_t* p, int64_t n, int lo, int hi) {
  for (int64_t i = 0; i < n; ++i) {
    switch (mood) {
      case Mood::uniform:
        p[i] = static_cast<int8_t>(rng.between(lo, hi));
        break;
      case Mood::low:
        p[i] = static_cast<int8_t>(lo);
        break;
      case Mood::high:
        p[i] = static_cast<int8_t>(hi);
        break;
      case Mood::extremes:
        p[i] = static_cast<int8_t>(rng.next() >> 63 ? hi : lo + (rng.next() >> 63 ? 0 : lo < 0));
        break;
    }
  }
}

std::vector<Isa> runnable_isas() {
  std::vector<Isa> isas;
  for (int i = 0; i < kIsaCount; ++i)
    if (isa_available(static_cast<Isa>(i))) isas.push_back(static_cast<Isa>(i));
  return isas;
}

}  // namespace test
}  // namespace qgemm
