#include "cpu/features.h"

#include <cstdint>

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

namespace qgemm {
namespace {

#if defined(__x86_64__) || defined(__i386__)
uint64_t xcr0() {
  uint32_t lo, hi;
  __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
  return (uint64_t(hi) << 32) | lo;
}

CpuFeatures detect() {
  CpuFeatures f;
  uint32_t a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return f;
  if (!(c & (1u << 27))) return f;  // no OSXSAVE: the OS keeps no vector state
  const uint64_t x = xcr0();
  const bool ymm = (x & 0x6) == 0x6, zmm = (x & 0xe6) == 0xe6, tiles = (x & 0x60000) == 0x60000;
  const uint32_t c1 = c;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return f;
  f.fma = ymm && (c1 & (1u << 12));
  f.avx2 = ymm && (b & (1u << 5));
  f.avx512f = zmm && (b & (1u << 16));
  f.avx512dq = zmm && (b & (1u << 17));
  f.avx512bw = zmm && (b & (1u << 30));
  f.avx512vl = zmm && (b & (1u << 31));
  f.avx512vbmi = zmm && (c & (1u << 1));
  f.avx512vnni = zmm && (c & (1u << 11));
  f.amx_tile = tiles && (d & (1u << 24));
  f.amx_int8 = tiles && (d & (1u << 25));
  if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) {
    f.avxvnni = ymm && (a & (1u << 4));
    f.avx512bf16 = zmm && (a & (1u << 5));
  }
  return f;
}
#elif defined(__aarch64__)
CpuFeatures detect() {
  CpuFeatures f;
  f.dotprod = getauxval(AT_HWCAP) & (1ul << 20);  // HWCAP_ASIMDDP
  f.i8mm = getauxval(AT_HWCAP2) & (1ul << 13);    // HWCAP2_I8MM
  return f;
}
#else
CpuFeatures detect() { return {}; }
#endif

}  // namespace

const CpuFeatures& cpu_features() {
  static const CpuFeatures f = detect();
  return f;
}

}  // namespace qgemm
