#include <immintrin.h>

#include "baseline_tile.h"

namespace qgemm_bench {
namespace {
struct F32Avx512 {
  using V = __m512;
  using W = __m512;
  static constexpr int kRows = 6, kRegisters = 4;
  static V zero() { return _mm512_setzero_ps(); }
  static W load(const uint8_t* p) { return _mm512_loadu_ps(p); }
  static W broadcast(const uint8_t* p) { return _mm512_set1_ps(*reinterpret_cast<const float*>(p)); }
  static V multiply_add(V acc, W a, W w) { return _mm512_fmadd_ps(a, w, acc); }
  static V load_c(const float* c) { return _mm512_loadu_ps(c); }
  static void store_c(float* c, V v) { _mm512_storeu_ps(c, v); }
};
}  // namespace

BaselineKernel baseline_f32_avx512() { return baseline_kernel<F32Avx512, 32>(); }

}  // namespace qgemm_bench
