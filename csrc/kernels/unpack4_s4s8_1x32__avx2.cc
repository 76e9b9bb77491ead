#include <immintrin.h>

#include "kernels/api.h"

namespace qgemm {
namespace avx2 {

void unpack4_s4s8_1x32(const unpack4_args& g) {
  const __m256i nibble = _mm256_set1_epi8(0x0f), sign = _mm256_set1_epi8(8);
  for (ptrdiff_t i = 0; i < g.bytes; i += 128) {
    for (int h = 0; h < 64; h += 32) {
      const __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(g.src + i / 2 + h));
      const __m256i lo = _mm256_and_si256(w, nibble), hi = _mm256_and_si256(_mm256_srli_epi16(w, 4), nibble);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(g.dst + i + h), _mm256_sub_epi8(_mm256_xor_si256(lo, sign), sign));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(g.dst + i + 64 + h), _mm256_sub_epi8(_mm256_xor_si256(hi, sign), sign));
    }
  }
}

}  // namespace avx2
}  // namespace qgemm
