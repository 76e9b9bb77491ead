// Maxima of windows, 64 channels a step. Along a row the maximum of each column is taken once and kept for every window that
// holds the column.
#include "kernels/epilogue__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {
namespace {

// The largest of kHeight rows (0: g.height) at byte `at`.
template <int kHeight>
QGEMM_INLINE __m512i column(const max_pool_args& g, const uint8_t* const* rows, ptrdiff_t at, __mmask64 k) {
  __m512i m = _mm512_maskz_loadu_epi8(k, rows[0] + at);
  if (kHeight) {
#pragma GCC unroll 3
    for (int r = 1; r < kHeight; ++r) m = _mm512_max_epu8(m, _mm512_maskz_loadu_epi8(k, rows[r] + at));
  } else {
    for (int r = 1; r < g.height; ++r) m = _mm512_max_epu8(m, _mm512_maskz_loadu_epi8(k, rows[r] + at));
  }
  return m;
}

// Channels [c, c + n) of pixels [x, end), any of whose taps may lie outside.
void any_pixels(const max_pool_args& g, int64_t x, int64_t end, ptrdiff_t c, __mmask64 k) {
  for (; x < end; ++x) {
    __m512i m = _mm512_setzero_si512();
    for (int t = 0; t < g.taps && g.height > 0; ++t) {
      const int64_t at = g.first + x * g.stride + t * g.dilation;
      if (at >= 0 && at < g.columns) m = _mm512_max_epu8(m, column<0>(g, g.rows, at * g.pixel + c, k));
    }
    _mm512_mask_storeu_epi8(g.out + x * g.ldo + c, k, m);
  }
}

// The same where all taps lie inside, side by side.
template <int kHeight, int kTaps, int kStride>
void inner_pixels(const max_pool_args& g, int64_t x, int64_t end, ptrdiff_t c, __mmask64 k) {
  constexpr int kKept = kTaps - kStride;
  const uint8_t* rows[kHeight ? kHeight : 1];
  for (int r = 0; r < kHeight; ++r) rows[r] = g.rows[r];
  const uint8_t* const* const from = kHeight ? rows : g.rows;
  ptrdiff_t at = (g.first + x * g.stride) * g.pixel + c;
  uint8_t* out = g.out + x * g.ldo + c;
  __m512i w[kTaps];
#pragma GCC unroll 5
  for (int t = 0; t < kKept; ++t) w[t] = column<kHeight>(g, from, at + t * g.pixel, k);
  for (; x < end; ++x, at += kStride * g.pixel, out += g.ldo) {
#pragma GCC unroll 5
    for (int t = kKept; t < kTaps; ++t) w[t] = column<kHeight>(g, from, at + t * g.pixel, k);
    __m512i m = w[0];
#pragma GCC unroll 5
    for (int t = 1; t < kTaps; ++t) m = _mm512_max_epu8(m, w[t]);
    _mm512_mask_storeu_epi8(out, k, m);
#pragma GCC unroll 5
    for (int t = 0; t < kKept; ++t) w[t] = w[t + kStride];
  }
}

template <int kTaps, int kStride>
void inner_pixels_of(const max_pool_args& g, int64_t x, int64_t end, ptrdiff_t c, __mmask64 k) {
  switch (g.height) {
    case 1:
      return inner_pixels<1, kTaps, kStride>(g, x, end, c, k);
    case 2:
      return inner_pixels<2, kTaps, kStride>(g, x, end, c, k);
    case 3:
      return inner_pixels<3, kTaps, kStride>(g, x, end, c, k);
    default:
      return inner_pixels<0, kTaps, kStride>(g, x, end, c, k);
  }
}

}  // namespace

void max_pool_u8_1x64(const max_pool_args& g) {
  // Pixels [lo, hi) have all their taps inside.
  const int64_t last = g.columns - 1 - (g.taps - 1) * g.dilation - g.first;
  int64_t lo = g.first < 0 ? (-g.first + g.stride - 1) / g.stride : 0, hi = last < 0 ? 0 : last / g.stride + 1;
  if (hi > g.pixels) hi = g.pixels;
  if (lo > hi || g.height <= 0 || g.dilation != 1) lo = hi = 0;
  for (ptrdiff_t c = 0; c < g.channels; c += 64) {
    const __mmask64 k = lanes64(g.channels - c < 64 ? static_cast<int>(g.channels - c) : 64);
    any_pixels(g, 0, lo, c, k);
    int64_t at = hi;
    if (lo == hi)
      at = lo;
    else if (g.taps == 2 && g.stride == 2)
      inner_pixels_of<2, 2>(g, lo, hi, c, k);
    else if (g.taps == 3 && g.stride == 2)
      inner_pixels_of<3, 2>(g, lo, hi, c, k);
    else if (g.taps == 3 && g.stride == 1)
      inner_pixels_of<3, 1>(g, lo, hi, c, k);
    else if (g.taps == 5 && g.stride == 1)
      inner_pixels<0, 5, 1>(g, lo, hi, c, k);
    else
      at = lo;
    any_pixels(g, at, g.pixels, c, k);
  }
}

}  // namespace avx512vnni
}  // namespace qgemm
