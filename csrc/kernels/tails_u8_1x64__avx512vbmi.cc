// A register of results at a time. A byte of it comes from one line, and its place there does not depend on which one: so one vector
// of indices serves all lines, and a mask says which bytes a line has.
#include <algorithm>

#include "kernels/epilogue__avx512vnni.h"

namespace qgemm {
namespace avx512vbmi {

using avx512vnni::lanes64;

void tails_u8_1x64(const tails_args& g) {
  const bool narrow = g.ldo == 4;
  const int taps = g.taps, n = g.n;
  // Pixels whose bytes lie in two registers of every line.
  const ptrdiff_t most = std::min<ptrdiff_t>(64 / g.ldo, (128 - n) / g.step + 1);
  // Byte b of a pixel is byte b % n of a piece. Up to pixel `most` no sum leaves its byte.
  uint64_t within = 0;
  for (int b = 0; b < 8; ++b) within |= static_cast<uint64_t>((narrow ? b % 4 : b) % n) << (8 * b);
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i pixel = narrow ? lane : _mm512_srli_epi32(lane, 1);
  const __m512i index = _mm512_add_epi8(_mm512_mullo_epi32(pixel, _mm512_set1_epi32(static_cast<int>(g.step * 0x01010101))),
                                        _mm512_set1_epi64(static_cast<int64_t>(within)));
  const __mmask64 piece = ((1ull << n) - 1) * (narrow ? 0x1111111111111111ull : 0x0101010101010101ull);
  for (ptrdiff_t x = 0; x < g.pixels; x += most) {
    const ptrdiff_t pixels = std::min(most, g.pixels - x);
    const int bytes = static_cast<int>((pixels - 1) * g.step) + n;
    const __mmask64 low = lanes64(bytes), high = bytes > 64 ? lanes64(bytes - 64) : 0;
    __m512i out = _mm512_setzero_si512();
    for (int t = 0; t < taps; ++t) {
      const uint8_t* line = g.lines[t] + x * g.step;
      const __m512i first = _mm512_maskz_loadu_epi8(low, line), second = _mm512_maskz_loadu_epi8(high, line + 64);
      out = _mm512_mask_mov_epi8(out, piece << (t * n), _mm512_permutex2var_epi8(first, index, second));
    }
    if (pixels * g.ldo == 64)
      _mm512_storeu_si512(g.out + x * g.ldo, out);
    else
      _mm512_mask_storeu_epi8(g.out + x * g.ldo, lanes64(static_cast<int>(pixels * g.ldo)), out);
  }
}

}  // namespace avx512vbmi
}  // namespace qgemm
