#include <immintrin.h>

#include "read.h"

namespace qgemm_bench {
namespace {
struct Avx2 {
  using V = __m256i;
  static V zero() { return _mm256_setzero_si256(); }
  static V load(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static V either(V a, V b) { return _mm256_or_si256(a, b); }
};
}  // namespace

Readers readers_avx2() { return readers<Avx2>(); }

}  // namespace qgemm_bench
