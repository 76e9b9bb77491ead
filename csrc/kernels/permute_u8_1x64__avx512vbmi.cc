#include <immintrin.h>

#include "kernels/api.h"

namespace qgemm {
namespace avx512vbmi {

namespace {

constexpr ptrdiff_t kWindow = 256;  // bytes that two vpermi2b and a blend can draw from

inline __attribute__((always_inline)) __mmask64 lanes(ptrdiff_t n) { return n >= 64 ? ~0ull : n <= 0 ? 0 : (1ull << n) - 1; }

// Pixels of at most 64 * kIn bytes, from each of which 64 * kOut bytes or fewer are drawn: a pixel is loaded once, and what picks
// its bytes stays in registers.
template <int kIn, int kOut>
void small_pixels(const permute_args& g) {
  __m512i index[kOut];
  __mmask64 upper[kOut];
#pragma GCC unroll 4
  for (int j = 0; j < kOut; ++j) {
    uint8_t local[64] __attribute__((aligned(64))) = {};
    for (ptrdiff_t i = 0; i < 64 && 64 * j + i < g.outputs; ++i) local[i] = static_cast<uint8_t>(g.index[64 * j + i]);
    index[j] = _mm512_load_si512(local);
    upper[j] = _mm512_movepi8_mask(index[j]);
  }
  const __mmask64 read = lanes(g.channels - 64 * (kIn - 1)), written = lanes(g.outputs - 64 * (kOut - 1));
  const uint8_t* x = g.x;
  uint8_t* out = g.out;
  for (ptrdiff_t p = 0; p < g.pixels; ++p, x += g.channels, out += g.outputs) {
    __m512i v[4];
#pragma GCC unroll 4
    for (int i = 0; i < kIn; ++i)
      v[i] = i == kIn - 1 ? _mm512_maskz_loadu_epi8(read, x + 64 * i) : _mm512_loadu_si512(x + 64 * i);
#pragma GCC unroll 4
    for (int i = kIn; i < 4; ++i) v[i] = v[0];
#pragma GCC unroll 4
    for (int j = 0; j < kOut; ++j) {
      __m512i q = kIn == 1 ? _mm512_permutexvar_epi8(index[j], v[0]) : _mm512_permutex2var_epi8(v[0], index[j], v[1]);
      if (kIn > 2) q = _mm512_mask_blend_epi8(upper[j], q, _mm512_permutex2var_epi8(v[2], index[j], v[3]));
      if (j == kOut - 1)
        _mm512_mask_storeu_epi8(out + 64 * j, written, q);
      else
        _mm512_storeu_si512(out + 64 * j, q);
    }
  }
}

template <int kIn>
bool small_pixels_of(const permute_args& g) {
  switch ((g.outputs + 63) / 64) {
    case 1:
      return small_pixels<kIn, 1>(g), true;
    case 2:
      return small_pixels<kIn, 2>(g), true;
    case 3:
      return small_pixels<kIn, 3>(g), true;
    case 4:
      return small_pixels<kIn, 4>(g), true;
    default:
      return false;
  }
}

bool small_pixels_of(const permute_args& g) {
  switch ((g.channels + 63) / 64) {
    case 1:
      return small_pixels_of<1>(g);
    case 2:
      return small_pixels_of<2>(g);
    case 3:
      return small_pixels_of<3>(g);
    case 4:
      return small_pixels_of<4>(g);
    default:
      return false;
  }
}

}  // namespace

// 64 outputs of a pixel at a time, for all pixels; each source window of 256 channels adds those that come from it.
void permute_u8_1x64(const permute_args& g) {
  if (small_pixels_of(g)) return;
  for (ptrdiff_t j = 0; j < g.outputs; j += 64) {
    const ptrdiff_t n = g.outputs - j < 64 ? g.outputs - j : 64;
    const __mmask64 stored = lanes(n);
    for (ptrdiff_t w = 0; w < g.channels; w += kWindow) {
      uint8_t local[64] __attribute__((aligned(64))) = {};
      uint64_t here = 0;
      for (ptrdiff_t i = 0; i < n; ++i) {
        const ptrdiff_t at = g.index[j + i] - w;
        if (at < 0 || at >= kWindow) continue;
        local[i] = static_cast<uint8_t>(at);
        here |= 1ull << i;
      }
      if (here == 0) continue;
      const ptrdiff_t left = g.channels - w;
      const __mmask64 m0 = lanes(left), m1 = lanes(left - 64), m2 = lanes(left - 128), m3 = lanes(left - 192);
      const __m512i index = _mm512_load_si512(local);
      const __mmask64 upper = _mm512_movepi8_mask(index), mine = here & stored;
      for (ptrdiff_t p = 0; p < g.pixels; ++p) {
        const uint8_t* x = g.x + p * g.channels + w;
        __m512i v = _mm512_permutex2var_epi8(_mm512_maskz_loadu_epi8(m0, x), index, _mm512_maskz_loadu_epi8(m1, x + 64));
        if (m2)
          v = _mm512_mask_blend_epi8(
              upper, v,
              _mm512_permutex2var_epi8(_mm512_maskz_loadu_epi8(m2, x + 128), index, _mm512_maskz_loadu_epi8(m3, x + 192)));
        _mm512_mask_storeu_epi8(g.out + p * g.outputs + j, mine, v);
      }
    }
  }
}

}  // namespace avx512vbmi
}  // namespace qgemm
