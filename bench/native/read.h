// The streaming read loops, for a register type that the including file names: one OR a load, so that no load is dropped.
//   V, load(p), either(a, b), zero()
#pragma once
#include <cstdint>

#include "loops.h"

namespace qgemm_bench {

constexpr int64_t kAhead = 2048;  // prefetch distance in bytes

// kStreams: parts of the range that are read side by side, as a hardware prefetcher follows several streams at once.
// kChains: independent accumulators, over all streams.
template <class Isa, int kStreams, int kChains, bool kPrefetch>
static void read(const uint8_t* p, int64_t bytes) {
  constexpr int kEach = kChains / kStreams, kSize = sizeof(typename Isa::V);
  typename Isa::V acc[kChains];
#pragma GCC unroll 16
  for (auto& a : acc) a = Isa::zero();
  const int64_t part = bytes / kStreams;
#pragma GCC unroll 1
  for (int64_t i = 0; i < part; i += kEach * kSize) {
#pragma GCC unroll 2
    for (int s = 0; s < kStreams; ++s) {
#pragma GCC unroll 16
      for (int j = 0; j < kEach; ++j) {
        const uint8_t* at = p + s * part + i + j * kSize;
        if (kPrefetch && j * kSize % 64 == 0) __builtin_prefetch(at + kAhead);
        acc[s * kEach + j] = Isa::either(acc[s * kEach + j], Isa::load(at));
      }
    }
  }
#pragma GCC unroll 16
  for (auto& a : acc) __asm__ volatile("" : : "v"(a));
}

template <class Isa>
static Readers readers() {
  static const Reader all[] = {
      {"1 chain", read<Isa, 1, 1, false>},
      {"8 chains", read<Isa, 1, 8, false>},
      {"8 chains, prefetch", read<Isa, 1, 8, true>},
      {"2 streams", read<Isa, 2, 8, false>},
      {"2 streams, prefetch", read<Isa, 2, 8, true>},
  };
  return {all, static_cast<int>(sizeof(all) / sizeof(all[0]))};
}

}  // namespace qgemm_bench
