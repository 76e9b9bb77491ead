// A register of results at a time. A byte of it comes from one line, and from which place there does not depend on the line: so
// one vector of indices serves all lines, and a mask says which bytes a line has.
#include <algorithm>

#include "kernels/epilogue__avx512vnni.h"

namespace qgemm {
namespace avx512vbmi {

using avx512vnni::lanes64;

namespace {

template <int kTaps>
void tails(const tails_args& g) {
  const bool narrow = g.ldo == 4;
  const int n = g.n;
  // Pixels whose bytes lie in two registers of every line.
  const ptrdiff_t most = std::min<ptrdiff_t>(
      narrow ? 16 : 8, static_cast<int32_t>(128 - n) / static_cast<int32_t>(std::min<ptrdiff_t>(g.step, 128)) + 1);
  // Byte b of a pixel is byte b % n of a piece. Up to pixel `most` no sum leaves its byte.
  static constexpr uint64_t kWithin[4] = {0, 0, 0x0100010001000100, 0x0100020100020100};
  const uint64_t within = narrow ? (kWithin[n] & 0xffffffff) * 0x100000001 : kWithin[n];
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i pixel = narrow ? lane : _mm512_srli_epi32(lane, 1);
  const __m512i index = _mm512_add_epi8(_mm512_mullo_epi32(pixel, _mm512_set1_epi32(static_cast<int>(g.step * 0x01010101))),
                                        _mm512_set1_epi64(static_cast<int64_t>(within)));
  const uint64_t piece = ((1ull << n) - 1) * (narrow ? 0x1111111111111111ull : 0x0101010101010101ull);
  __mmask64 of_line[kTaps];
  const uint8_t* lines[kTaps];
#pragma GCC unroll 8
  for (int t = 0; t < kTaps; ++t) of_line[t] = piece << (t * n), lines[t] = g.lines[t];
  uint8_t* out = g.out;
  ptrdiff_t left = g.pixels, at = 0;
  // What a register's pixels have lies in 96 bytes, and these before the end of the line.
  const ptrdiff_t full = narrow ? 16 : 8, advance = full * g.step;
  if (most == full && (full - 1) * g.step + n <= 96)
    for (; left >= full && (left - 1) * g.step + n >= 96; left -= full, at += advance, out += 64) {
      __m512i v = _mm512_setzero_si512();
#pragma GCC unroll 8
      for (int t = 0; t < kTaps; ++t) {
        const __m512i second = _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(lines[t] + at + 64)));
        v = _mm512_mask_mov_epi8(v, of_line[t], _mm512_permutex2var_epi8(_mm512_loadu_si512(lines[t] + at), index, second));
      }
      _mm512_storeu_si512(out, v);
    }
  for (; left > 0; left -= most, at += most * g.step, out += most * g.ldo) {
    const ptrdiff_t pixels = std::min(most, left);
    const int bytes = static_cast<int>((pixels - 1) * g.step) + n;
    const __mmask64 low = lanes64(bytes), high = bytes > 64 ? lanes64(bytes - 64) : 0;
    __m512i v = _mm512_setzero_si512();
#pragma GCC unroll 8
    for (int t = 0; t < kTaps; ++t) {
      const __m512i first = _mm512_maskz_loadu_epi8(low, lines[t] + at),
                    second = _mm512_maskz_loadu_epi8(high, lines[t] + at + 64);
      v = _mm512_mask_mov_epi8(v, of_line[t], _mm512_permutex2var_epi8(first, index, second));
    }
    _mm512_mask_storeu_epi8(out, lanes64(static_cast<int>(pixels * g.ldo)), v);
  }
}

}  // namespace

void tails_u8_1x64(const tails_args& g) {
  static constexpr void (*kOf[9])(const tails_args&) = {nullptr,  tails<1>, tails<2>, tails<3>, tails<4>,
                                                        tails<5>, tails<6>, tails<7>, tails<8>};
  kOf[g.taps](g);
}

}  // namespace avx512vbmi
}  // namespace qgemm
