#include <immintrin.h>

#include "read.h"

namespace qgemm_bench {
namespace {
struct Avx512 {
  using V = __m512i;
  static V zero() { return _mm512_setzero_si512(); }
  static V load(const uint8_t* p) { return _mm512_loadu_si512(p); }
  static V either(V a, V b) { return _mm512_or_si512(a, b); }
};
}  // namespace

Readers readers_avx512() { return readers<Avx512>(); }

}  // namespace qgemm_bench
