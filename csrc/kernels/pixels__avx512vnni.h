// Lanes of a register shared among pixels, where one has few channels. Included in AVX-512 files only.
#pragma once
#include "kernels/epilogue__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {

// kPixels (1, 2, 4) pixels `apart` bytes apart, 64 / kPixels lanes each, of which mask k names those of one pixel.
template <int kPixels>
QGEMM_INLINE __m512i load_pixels(const uint8_t* p, ptrdiff_t apart, __mmask64 k) {
  if (kPixels == 1) return _mm512_maskz_loadu_epi8(k, p);
  if (kPixels == 2) {
    const __mmask32 m = static_cast<__mmask32>(k);
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_maskz_loadu_epi8(m, p)), _mm256_maskz_loadu_epi8(m, p + apart), 1);
  }
  const __mmask16 m = static_cast<__mmask16>(k);
  const __m256i a =
      _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_maskz_loadu_epi8(m, p)), _mm_maskz_loadu_epi8(m, p + apart), 1);
  const __m256i b = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_maskz_loadu_epi8(m, p + 2 * apart)),
                                            _mm_maskz_loadu_epi8(m, p + 3 * apart), 1);
  return _mm512_inserti64x4(_mm512_castsi256_si512(a), b, 1);
}

template <int kPixels>
QGEMM_INLINE void store_pixels(uint8_t* p, ptrdiff_t apart, __mmask64 k, __m512i v) {
  if (kPixels == 1) {
    _mm512_mask_storeu_epi8(p, k, v);
  } else if (kPixels == 2) {
    const __mmask32 m = static_cast<__mmask32>(k);
    _mm256_mask_storeu_epi8(p, m, _mm512_castsi512_si256(v));
    _mm256_mask_storeu_epi8(p + apart, m, _mm512_extracti64x4_epi64(v, 1));
  } else {
    const __mmask16 m = static_cast<__mmask16>(k);
    _mm_mask_storeu_epi8(p, m, _mm512_castsi512_si128(v));
    _mm_mask_storeu_epi8(p + apart, m, _mm512_extracti32x4_epi32(v, 1));
    _mm_mask_storeu_epi8(p + 2 * apart, m, _mm512_extracti32x4_epi32(v, 2));
    _mm_mask_storeu_epi8(p + 3 * apart, m, _mm512_extracti32x4_epi32(v, 3));
  }
}

struct Inside {
  int64_t lo, hi;
};
// Outputs whose taps all lie inside: [lo, hi), which is empty (lo = hi) where there is nothing to read.
// `stride` is g's: one that the compiler knows saves divisions.
QGEMM_INLINE Inside inside_of(const pool_args& g, int64_t stride) {
  const int64_t last = g.columns - 1 - (g.taps - 1) * g.dilation - g.first;
  const int64_t lo = g.first < 0 ? (-g.first + stride - 1) / stride : 0;
  int64_t hi = last < 0 ? 0 : last / stride + 1;
  if (hi > g.pixels) hi = g.pixels;
  return lo > hi || g.height <= 0 ? Inside{0, 0} : Inside{lo, hi};
}

}  // namespace avx512vnni
}  // namespace qgemm
