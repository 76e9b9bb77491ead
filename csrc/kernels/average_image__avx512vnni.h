// Averages of whole images whose bytes follow each other: the sums of all channels are kept in L1, so that bytes are read in the
// order in which they lie. Included in the AVX-512 files of average_pool only.
#pragma once
#include "kernels/average_ends__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {
namespace {

constexpr ptrdiff_t kMostLine = 2048;  // bytes whose sums are kept
constexpr int kGroup = 7;              // lines that are read side by side

// Sums of 16 bits of `count` lines of `bytes` bytes, a multiple of 64, that lie `step` bytes apart: in `lo` of bytes 0 to 7 of
// each 16, in `hi` of the others.
QGEMM_INLINE void sum_lines(const uint8_t* p, ptrdiff_t bytes, ptrdiff_t step, int64_t count, uint8_t* lo, uint8_t* hi) {
  bool first = true;
  const auto some = [&](auto lines) __attribute__((always_inline)) {
    for (ptrdiff_t c = 0; c < bytes; c += 64) {
      const uint8_t* q = p + c;
      Sums s = {_mm512_setzero_si512(), _mm512_setzero_si512()};
      if (!first) s = {_mm512_load_si512(lo + c), _mm512_load_si512(hi + c)};
#pragma GCC unroll 4
      for (int t = 0; t + 2 <= lines; t += 2, q += 2 * step) s = s + pair(_mm512_loadu_si512(q), _mm512_loadu_si512(q + step));
      if (lines % 2) s = s + single(_mm512_loadu_si512(q));
      _mm512_store_si512(lo + c, s.lo);
      _mm512_store_si512(hi + c, s.hi);
    }
    p += lines * step;
    count -= lines;
    first = false;
  };
  while (count >= kGroup) some(std::integral_constant<int, kGroup>{});
  while (count >= 2) some(std::integral_constant<int, 2>{});
  if (count) some(std::integral_constant<int, 1>{});
}

// False where the image is not such a one, or gains nothing: pixels of up to 512 channels that are whole registers have their
// sums in registers. Pixels that are none are taken by twos or fours, which are.
bool average_image(const average_pool_args& g, const Finish& finish) {
  if (g.outputs != 1 || g.pixels != 1 || g.first != 0 || g.taps != g.columns || g.dilation != 1) return false;
  for (int r = 1; r < g.height; ++r)
    if (g.rows[r] != g.rows[0] + r * g.columns * g.pixel) return false;
  int fold = 1;
  while (fold < 4 && g.channels * fold % 64) fold *= 2;
  const int64_t pixels = g.height * g.columns, count = pixels / fold;
  const ptrdiff_t line = static_cast<ptrdiff_t>(g.channels) * fold;
  if (line % 64 || g.channels % 16 || line > kMostLine || (fold > 1 ? g.pixel != g.channels : g.channels <= 512)) return false;
  if (count < kGroup || pixels % fold || count > kMostWords) return false;
  alignas(64) uint8_t lo[kMostLine + 64], hi[kMostLine + 64];
  sum_lines(g.rows[0], line, g.pixel * fold, count, lo, hi);
  if (fold == 1) {
    const auto finish_all = [&](const auto& end) {
      for (ptrdiff_t c = 0; c < line; c += 64)
        _mm512_storeu_si512(g.out + c, end({_mm512_load_si512(lo + c), _mm512_load_si512(hi + c)}));
    };
    g.bounded ? finish_all(TwoProducts<true>(g, finish, g.taps)) : finish_all(TwoProducts<false>(g, finish, g.taps));
    return true;
  }
  const __m512 scale = _mm512_set1_ps(g.scale[g.taps]);
  const __m512i less = _mm512_set1_epi32(static_cast<int>(pixels * g.x_zero_point)), zero = _mm512_setzero_si512();
  for (ptrdiff_t c = 0; c < g.channels; c += 64) {
    __m512i total[4] = {zero, zero, zero, zero};
    for (int j = 0; j < fold; ++j) {
      const __m512i a = _mm512_loadu_si512(lo + j * g.channels + c), b = _mm512_loadu_si512(hi + j * g.channels + c);
      total[0] = _mm512_add_epi32(total[0], _mm512_unpacklo_epi16(a, zero));
      total[1] = _mm512_add_epi32(total[1], _mm512_unpackhi_epi16(a, zero));
      total[2] = _mm512_add_epi32(total[2], _mm512_unpacklo_epi16(b, zero));
      total[3] = _mm512_add_epi32(total[3], _mm512_unpackhi_epi16(b, zero));
    }
    const int left = g.channels - c < 64 ? static_cast<int>(g.channels - c) : 64;
    _mm512_mask_storeu_epi8(g.out + c, lanes64(left), finish.totals(total, less, scale));
  }
  return true;
}

}  // namespace
}  // namespace avx512vnni
}  // namespace qgemm
