#include <immintrin.h>

#include "kernels/api.h"

namespace qgemm {
namespace avx512vbmi {

namespace {

constexpr ptrdiff_t kWindow = 256;  // bytes that two vpermi2b and a blend can draw from

inline __attribute__((always_inline)) __mmask64 lanes(ptrdiff_t n) { return n >= 64 ? ~0ull : n <= 0 ? 0 : (1ull << n) - 1; }

}  // namespace

// 64 outputs of a pixel at a time, for all pixels; each source window of 256 channels adds those that come from it.
void permute_u8_1x64(const permute_args& g) {
  for (ptrdiff_t j = 0; j < g.channels; j += 64) {
    const ptrdiff_t n = g.channels - j < 64 ? g.channels - j : 64;
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
        _mm512_mask_storeu_epi8(g.out + p * g.channels + j, mine, v);
      }
    }
  }
}

}  // namespace avx512vbmi
}  // namespace qgemm
