#include <immintrin.h>

#include "kernels/api.h"

namespace qgemm {
namespace avx512vnni {

void unpack4_s4s8_1x128(const unpack4_args& g) {
  const __m512i nibble = _mm512_set1_epi8(0x0f), sign = _mm512_set1_epi8(8);
  for (ptrdiff_t i = 0; i < g.bytes; i += 128) {
    const __m512i w = _mm512_loadu_si512(g.src + i / 2);
    const __m512i lo = _mm512_and_si512(w, nibble), hi = _mm512_and_si512(_mm512_srli_epi16(w, 4), nibble);
    _mm512_storeu_si512(g.dst + i, _mm512_sub_epi8(_mm512_xor_si512(lo, sign), sign));
    _mm512_storeu_si512(g.dst + i + 64, _mm512_sub_epi8(_mm512_xor_si512(hi, sign), sign));
  }
}

}  // namespace avx512vnni
}  // namespace qgemm
