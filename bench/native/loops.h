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

// Loops that read one stream (`b` null) or two and write one, and do next to nothing else: what an operation that moves bytes
// could at best reach. bytes: of each stream, a multiple of 256.
#if QGEMM_X86
void move_avx512(const uint8_t* a, const uint8_t* b, uint8_t* y, int64_t bytes);
#endif

}  // namespace qgemm_bench
