// Sixteen rows at once: their sums are chains that do not wait for each other, and adding up the lanes of all costs two shuffles
// a row, where one alone takes eight.
#include "kernels/epilogue__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {
namespace {

QGEMM_INLINE __mmask64 bytes_left(ptrdiff_t n) { return lanes64(n < 64 ? static_cast<int>(n) : 64); }

// r[i]: 16 partial sums of row i. The sums of the rows.
QGEMM_INLINE __m512i sums_of_16(__m512i* r) {
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i)
    r[i] = _mm512_add_epi32(_mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]), _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]));
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i)  // lane l of r[i]: rows 4 * i .. 4 * i + 3, of each the sums that stood in lane l
    r[i] = _mm512_add_epi32(_mm512_unpacklo_epi64(r[2 * i], r[2 * i + 1]), _mm512_unpackhi_epi64(r[2 * i], r[2 * i + 1]));
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i)
    r[i] =
        _mm512_add_epi32(_mm512_shuffle_i32x4(r[2 * i], r[2 * i + 1], 0x88), _mm512_shuffle_i32x4(r[2 * i], r[2 * i + 1], 0xdd));
  return _mm512_add_epi32(_mm512_shuffle_i32x4(r[0], r[1], 0x88), _mm512_shuffle_i32x4(r[0], r[1], 0xdd));
}

}  // namespace

void row_sum_u8s32_1x64(const row_sum_args& g) {
  const __m512i ones = _mm512_set1_epi8(1);
  ptrdiff_t i = 0;
  for (; i + 16 <= g.m; i += 16) {
    __m512i r[16];
#pragma GCC unroll 16
    for (int j = 0; j < 16; ++j) r[j] = _mm512_setzero_si512();
#pragma GCC unroll 1
    for (ptrdiff_t k = 0; k < g.k; k += 64) {
      const __mmask64 bytes = bytes_left(g.k - k);
      const uint8_t* a = g.a + i * g.lda + k;
#pragma GCC unroll 16
      for (int j = 0; j < 16; ++j, a += g.lda) r[j] = _mm512_dpbusd_epi32(r[j], _mm512_maskz_loadu_epi8(bytes, a), ones);
    }
#pragma GCC unroll 16
    for (int j = 0; j < 16; ++j) __asm__("" : "+v"(r[j]));  // in registers, or the compiler keeps one on the stack
    _mm512_storeu_si512(g.sum + i, sums_of_16(r));
  }
  for (; i < g.m; ++i) {
    const uint8_t* a = g.a + i * g.lda;
    __m512i sum = _mm512_setzero_si512(), sum1 = sum;
    ptrdiff_t k = 0;
    for (; k + 128 <= g.k; k += 128) {
      sum = _mm512_dpbusd_epi32(sum, _mm512_loadu_si512(a + k), ones);
      sum1 = _mm512_dpbusd_epi32(sum1, _mm512_loadu_si512(a + k + 64), ones);
    }
    for (; k < g.k; k += 64) sum = _mm512_dpbusd_epi32(sum, _mm512_maskz_loadu_epi8(bytes_left(g.k - k), a + k), ones);
    g.sum[i] = _mm512_reduce_add_epi32(_mm512_add_epi32(sum, sum1));
  }
}

}  // namespace avx512vnni
}  // namespace qgemm
