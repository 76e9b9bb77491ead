// Maxima of windows, 64 channels a step. Along a row the maximum of each column is taken once and kept for every window that
// holds the column.
#include "kernels/pixels__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {
namespace {

// The largest of kHeight rows (0: g.height) at byte `at`, of kPixels pixels.
template <int kHeight, int kPixels>
QGEMM_INLINE __m512i column(const max_pool_args& g, const uint8_t* const* rows, ptrdiff_t at, ptrdiff_t apart, __mmask64 k) {
  __m512i m = load_pixels<kPixels>(rows[0] + at, apart, k);
  if (kHeight) {
#pragma GCC unroll 3
    for (int r = 1; r < kHeight; ++r) m = _mm512_max_epu8(m, load_pixels<kPixels>(rows[r] + at, apart, k));
  } else {
    for (int r = 1; r < g.height; ++r) m = _mm512_max_epu8(m, load_pixels<kPixels>(rows[r] + at, apart, k));
  }
  return m;
}

// Channels [c, c + n) of pixels [x, end), any of whose taps may lie outside.
void any_pixels(const max_pool_args& g, int64_t x, int64_t end, ptrdiff_t c, __mmask64 k) {
  for (; x < end; ++x) {
    __m512i m = _mm512_setzero_si512();
    for (int t = 0; t < g.taps && g.height > 0; ++t) {
      const int64_t at = g.first + x * g.stride + t * g.dilation;
      if (at >= 0 && at < g.columns) m = _mm512_max_epu8(m, column<0, 1>(g, g.rows, at * g.pixel + c, 0, k));
    }
    _mm512_mask_storeu_epi8(g.out + x * g.ldo + c, k, m);
  }
}

// kPixels runs of `count` pixels, one behind the other from pixel x on, where all taps lie inside, side by side.
template <int kHeight, int kTaps, int kStride, int kPixels>
void inner_run(const max_pool_args& g, int64_t x, int64_t count, ptrdiff_t c, __mmask64 k) {
  constexpr int kKept = kTaps - kStride;
  const uint8_t* rows[kHeight ? kHeight : 1];
  for (int r = 0; r < kHeight; ++r) rows[r] = g.rows[r];
  const uint8_t* const* const from = kHeight ? rows : g.rows;
  const ptrdiff_t apart = count * kStride * g.pixel, out_apart = count * g.ldo;
  ptrdiff_t at = (g.first + x * g.stride) * g.pixel + c;
  uint8_t* out = g.out + x * g.ldo + c;
  __m512i w[kTaps];
#pragma GCC unroll 5
  for (int t = 0; t < kKept; ++t) w[t] = column<kHeight, kPixels>(g, from, at + t * g.pixel, apart, k);
  for (; count > 0; --count, at += kStride * g.pixel, out += g.ldo) {
#pragma GCC unroll 5
    for (int t = kKept; t < kTaps; ++t) w[t] = column<kHeight, kPixels>(g, from, at + t * g.pixel, apart, k);
    __m512i m = w[0];
#pragma GCC unroll 5
    for (int t = 1; t < kTaps; ++t) m = _mm512_max_epu8(m, w[t]);
    store_pixels<kPixels>(out, out_apart, k, m);
#pragma GCC unroll 5
    for (int t = 0; t < kKept; ++t) w[t] = w[t + kStride];
  }
}

template <int kHeight, int kTaps, int kStride>
void inner_pixels(const max_pool_args& g, int64_t x, int64_t end, ptrdiff_t c, int lanes) {
  const __mmask64 k = lanes64(lanes);
  if (lanes <= 16 && end - x >= 8) {
    const int64_t count = (end - x) / 4;
    inner_run<kHeight, kTaps, kStride, 4>(g, x, count, c, k);
    x += 4 * count;
  } else if (lanes <= 32 && end - x >= 4) {
    const int64_t count = (end - x) / 2;
    inner_run<kHeight, kTaps, kStride, 2>(g, x, count, c, k);
    x += 2 * count;
  }
  if (x < end) inner_run<kHeight, kTaps, kStride, 1>(g, x, end - x, c, k);
}

template <int kTaps, int kStride>
void inner_pixels_of(const max_pool_args& g, int64_t x, int64_t end, ptrdiff_t c, int lanes) {
  switch (g.height) {
    case 1:
      return inner_pixels<1, kTaps, kStride>(g, x, end, c, lanes);
    case 2:
      return inner_pixels<2, kTaps, kStride>(g, x, end, c, lanes);
    case 3:
      return inner_pixels<3, kTaps, kStride>(g, x, end, c, lanes);
    default:
      return inner_pixels<0, kTaps, kStride>(g, x, end, c, lanes);
  }
}

}  // namespace

void max_pool_u8_1x64(const max_pool_args& g) {
  Inside inside = inside_of(g);
  if (g.dilation != 1) inside = {0, 0};
  for (ptrdiff_t c = 0; c < g.channels; c += 64) {
    const int lanes = g.channels - c < 64 ? static_cast<int>(g.channels - c) : 64;
    const __mmask64 k = lanes64(lanes);
    any_pixels(g, 0, inside.lo, c, k);
    int64_t at = inside.hi;
    if (inside.lo == inside.hi)
      at = inside.lo;
    else if (g.taps == 2 && g.stride == 2)
      inner_pixels_of<2, 2>(g, inside.lo, inside.hi, c, lanes);
    else if (g.taps == 3 && g.stride == 2)
      inner_pixels_of<3, 2>(g, inside.lo, inside.hi, c, lanes);
    else if (g.taps == 3 && g.stride == 1)
      inner_pixels_of<3, 1>(g, inside.lo, inside.hi, c, lanes);
    else if (g.taps == 5 && g.stride == 1)
      inner_pixels<0, 5, 1>(g, inside.lo, inside.hi, c, lanes);
    else
      at = inside.lo;
    any_pixels(g, at, g.pixels, c, k);
  }
}

}  // namespace avx512vnni
}  // namespace qgemm
