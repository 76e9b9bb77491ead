#include <immintrin.h>

#include "baseline_tile.h"

namespace qgemm_bench {
namespace {
struct F32Avx2 {
  using V = __m256;
  using W = __m256;
  static constexpr int kRows = 6, kRegisters = 2;
  static V zero() { return _mm256_setzero_ps(); }
  static W load(const uint8_t* p) { return _mm256_loadu_ps(reinterpret_cast<const float*>(p)); }
  static W broadcast(const uint8_t* p) { return _mm256_set1_ps(*reinterpret_cast<const float*>(p)); }
  static V multiply_add(V acc, W a, W w) { return _mm256_fmadd_ps(a, w, acc); }
  static V load_c(const float* c) { return _mm256_loadu_ps(c); }
  static void store_c(float* c, V v) { _mm256_storeu_ps(c, v); }
};
}  // namespace

BaselineKernel baseline_f32_avx2() { return baseline_kernel<F32Avx2, 16>(); }

}  // namespace qgemm_bench
