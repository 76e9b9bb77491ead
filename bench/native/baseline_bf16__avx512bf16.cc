#include <immintrin.h>

#include <cstring>

#include "baseline_tile.h"

namespace qgemm_bench {
namespace {
struct Bf16Avx512 {
  using V = __m512;
  using W = __m512bh;
  static constexpr int kRows = 6, kRegisters = 4;
  static V zero() { return _mm512_setzero_ps(); }
  static W load(const uint8_t* p) { return reinterpret_cast<W>(_mm512_loadu_si512(p)); }
  static W broadcast(const uint8_t* p) {
    int32_t pair;
    std::memcpy(&pair, p, 4);
    return reinterpret_cast<W>(_mm512_set1_epi32(pair));
  }
  static V multiply_add(V acc, W a, W w) { return _mm512_dpbf16_ps(acc, a, w); }
  static V load_c(const float* c) { return _mm512_loadu_ps(c); }
  static void store_c(float* c, V v) { _mm512_storeu_ps(c, v); }
};
}  // namespace

BaselineKernel baseline_bf16_avx512() { return baseline_kernel<Bf16Avx512, 64>(); }

}  // namespace qgemm_bench
