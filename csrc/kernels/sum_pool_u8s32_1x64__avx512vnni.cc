// Sums of pixels, 64 channels a step. Two pixels are interleaved so that one vpmaddubsw with ones adds two bytes of each channel
// to 16 bits: 3 operations a pixel and 64 channels, where widening takes 4.
#include "kernels/epilogue__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {

void sum_pool_u8s32_1x64(const sum_pool_args& g) {
  const __m512i ones = _mm512_set1_epi8(1), zero = _mm512_setzero_si512();
  for (int c = 0; c < g.channels; c += 64) {
    const int left = g.channels - c;
    const __mmask64 k = lanes64(left < 64 ? left : 64);
    __m512i v[4] = {zero, zero, zero, zero};
    for (int t = 0; t < g.taps;) {
      const int end = g.taps - t > 256 ? t + 256 : g.taps;  // 257 * 255 is the largest sum that 16 bits hold
      __m512i lo = zero, hi = zero;
      const auto add = [&](__m512i a, __m512i b) __attribute__((always_inline)) {
        lo = _mm512_add_epi16(lo, _mm512_maddubs_epi16(_mm512_unpacklo_epi8(a, b), ones));
        hi = _mm512_add_epi16(hi, _mm512_maddubs_epi16(_mm512_unpackhi_epi8(a, b), ones));
      };
      for (; t + 2 <= end; t += 2) add(_mm512_maskz_loadu_epi8(k, g.a[t] + c), _mm512_maskz_loadu_epi8(k, g.a[t + 1] + c));
      if (t < end) add(_mm512_maskz_loadu_epi8(k, g.a[t++] + c), zero);
      v[0] = _mm512_add_epi32(v[0], _mm512_unpacklo_epi16(lo, zero));
      v[1] = _mm512_add_epi32(v[1], _mm512_unpackhi_epi16(lo, zero));
      v[2] = _mm512_add_epi32(v[2], _mm512_unpacklo_epi16(hi, zero));
      v[3] = _mm512_add_epi32(v[3], _mm512_unpackhi_epi16(hi, zero));
    }
    transpose_lanes(v);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j)
      if (left > 16 * j) _mm512_mask_storeu_epi32(g.sum + c + 16 * j, lanes16(valid16(left, j)), v[j]);
  }
}

}  // namespace avx512vnni
}  // namespace qgemm
