// A floating-point GEMM of our own, as the yardstick of "times FP32": weights packed in panels once, register-tiled, blocked for
// L2.
#pragma once
#include <cstddef>
#include <cstdint>

namespace qgemm_bench {

// `rows` rows of a tile over `bytes` bytes of K. c is stored when `first`, else added to.
struct BaselineTile {
  const uint8_t* a;
  ptrdiff_t lda;  // bytes
  int rows;
  const uint8_t* b;  // panel: for each 4 bytes of K, one lane a column
  ptrdiff_t bytes;
  float* c;
  ptrdiff_t ldc;  // floats
  bool first;
};

struct BaselineKernel {
  int rows, columns;
  void (*tile)(const BaselineTile&);
  int64_t (*peak)(int64_t rounds);  // operations done
};

#if QGEMM_X86
BaselineKernel baseline_f32_avx512();
BaselineKernel baseline_f32_avx2();
BaselineKernel baseline_bf16_avx512();
#endif

}  // namespace qgemm_bench
