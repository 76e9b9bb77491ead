#include "kernels/epilogue__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {
namespace {

// The bytes of a row, summed by fours and by steps of 64: 16 partial sums.
QGEMM_INLINE __m512i partial_sums(const uint8_t* a, ptrdiff_t n) {
  const __m512i ones = _mm512_set1_epi8(1);
  __m512i sum = _mm512_setzero_si512(), sum1 = sum;
  ptrdiff_t k = 0;
  for (; k + 128 <= n; k += 128) {
    sum = _mm512_dpbusd_epi32(sum, _mm512_loadu_si512(a + k), ones);
    sum1 = _mm512_dpbusd_epi32(sum1, _mm512_loadu_si512(a + k + 64), ones);
  }
  for (; k < n; k += 64)
    sum = _mm512_dpbusd_epi32(sum, _mm512_maskz_loadu_epi8(lanes64(n - k < 64 ? static_cast<int>(n - k) : 64), a + k), ones);
  return _mm512_add_epi32(sum, sum1);
}

// Sixteen sums at once cost two shuffles each, one alone eight. r[i]: partial sums of row i.
QGEMM_INLINE __m512i sums_of_16(__m512i* r) {
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i)
    r[i] = _mm512_add_epi32(_mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]), _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]));
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i)  // lane l of r[i]: rows 4 * i .. 4 * i + 3, of each the sums that stood in lane l
    r[i] = _mm512_add_epi32(_mm512_unpacklo_epi64(r[2 * i], r[2 * i + 1]), _mm512_unpackhi_epi64(r[2 * i], r[2 * i + 1]));
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i)
    r[i] = _mm512_add_epi32(_mm512_shuffle_i32x4(r[2 * i], r[2 * i + 1], 0x88), _mm512_shuffle_i32x4(r[2 * i], r[2 * i + 1], 0xdd));
  return _mm512_add_epi32(_mm512_shuffle_i32x4(r[0], r[1], 0x88), _mm512_shuffle_i32x4(r[0], r[1], 0xdd));
}

}  // namespace

void row_sum_u8s32_1x64(const row_sum_args& g) {
  ptrdiff_t i = 0;
  for (; i + 16 <= g.m; i += 16) {
    __m512i r[16];
#pragma GCC unroll 16
    for (int j = 0; j < 16; ++j) r[j] = partial_sums(g.a + (i + j) * g.lda, g.k);
    _mm512_storeu_si512(g.sum + i, sums_of_16(r));
  }
  for (; i < g.m; ++i) g.sum[i] = _mm512_reduce_add_epi32(partial_sums(g.a + i * g.lda, g.k));
}

}  // namespace avx512vnni
}  // namespace qgemm
