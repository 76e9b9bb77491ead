// What the CPU itself can do: the yardsticks of the benchmarks, each loop in a file with its own instruction set.
#pragma once
#include <cstdint>

namespace qgemm_bench {

#if QGEMM_X86
// vpdpbusd on registers alone: the multiplications and additions of `rounds` rounds.
int64_t vnni_peak_round(int64_t rounds);
#endif

// A loop that loads [p, p + bytes) once and does next to nothing else. bytes: a multiple of 1024.
struct Reader {
  const char* name;
  void (*read)(const uint8_t* p, int64_t bytes);
};
struct Readers {
  const Reader* first;
  int count;
};
#if QGEMM_X86
Readers readers_avx512();
Readers readers_avx2();
#endif

// What an operation that moves bytes could at best reach: reads `reads` bytes of `a`, as many of `b` unless it is null, and
// writes `writes` to `y`, doing next to nothing else. As long as there is something of both, a step reads and writes.
#if QGEMM_X86
void move_avx512(const uint8_t* a, int64_t reads, const uint8_t* b, uint8_t* y, int64_t writes);
#endif

}  // namespace qgemm_bench
