// The register tile of the floating-point baselines: MR rows x NV registers of columns, from weights packed in panels. Four bytes
// of a row meet one lane of a weight register: one float, or two bfloat16 that vdpbf16ps multiplies and adds.
//   Isa: V (accumulators), W (weights), kRows, kRegisters, zero(), load(p), broadcast(p), multiply_add(acc, a, w), load_c,
//   store_c
#pragma once
#include <cstdint>

#include "baseline.h"

namespace qgemm_bench {

template <class Isa, int MR>
static void baseline_tile(const BaselineTile& t) {
  constexpr int NV = Isa::kRegisters, kSize = sizeof(typename Isa::V);
  typename Isa::V acc[MR][NV];
  const uint8_t* a[MR];
#pragma GCC unroll 8
  for (int i = 0; i < MR; ++i) {
    a[i] = t.a + i * t.lda + t.bytes;
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) acc[i][j] = t.first ? Isa::zero() : Isa::load_c(t.c + i * t.ldc + j * (kSize / 4));
  }
  const uint8_t* b = t.b;
#pragma GCC unroll 1
  for (ptrdiff_t k = -t.bytes; k < 0; k += 4) {
    typename Isa::W w[NV];
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) w[j] = Isa::load(b + j * kSize);
    b += NV * kSize;
#pragma GCC unroll 8
    for (int i = 0; i < MR; ++i) {
      const typename Isa::W x = Isa::broadcast(a[i] + k);
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) acc[i][j] = Isa::multiply_add(acc[i][j], x, w[j]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) Isa::store_c(t.c + i * t.ldc + j * (kSize / 4), acc[i][j]);
}

template <class Isa, int MR>
struct BaselineRows {
  static void run(const BaselineTile& t) {
    if (t.rows == MR)
      baseline_tile<Isa, MR>(t);
    else
      BaselineRows<Isa, MR - 1>::run(t);
  }
};
template <class Isa>
struct BaselineRows<Isa, 0> {
  static void run(const BaselineTile&) {}
};

// Multiply-adds on registers: 12 chains, more than latency times rate. kFlops: of one instruction.
template <class Isa, int kFlops>
static int64_t baseline_peak(int64_t rounds) {
  typename Isa::V acc[12];
#pragma GCC unroll 12
  for (auto& x : acc) {
    x = Isa::zero();
    __asm__ volatile("" : "+v"(x));  // else equal chains would become one
  }
  static const float zeros[16] = {};
  typename Isa::W a = Isa::load(reinterpret_cast<const uint8_t*>(zeros)), b = a;
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (auto& x : acc) x = Isa::multiply_add(x, a, b);
    __asm__ volatile("" : "+v"(a), "+v"(b));
  }
#pragma GCC unroll 12
  for (auto& x : acc) __asm__ volatile("" : : "v"(x));
  return rounds * 12 * kFlops;
}

template <class Isa, int kFlops>
static BaselineKernel baseline_kernel() {
  return {Isa::kRows, Isa::kRegisters * static_cast<int>(sizeof(typename Isa::V)) / 4, BaselineRows<Isa, Isa::kRows>::run,
          baseline_peak<Isa, kFlops>};
}

}  // namespace qgemm_bench
