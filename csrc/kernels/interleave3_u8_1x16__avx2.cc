// 16 pixels are three vectors of bytes, each put together from three shuffles, one a plane; -1 gives a zero where another plane's
// byte goes.
#include "kernels/epilogue__avx2.h"

namespace qgemm {
namespace avx2 {
namespace {

QGEMM_INLINE __m128i load16(const uint8_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
QGEMM_INLINE void store16(uint8_t* p, __m128i a, __m128i b, __m128i c) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_or_si128(_mm_or_si128(a, b), c));
}

}  // namespace

void interleave3_u8_1x16(const interleave3_args& g) {
  const __m128i r0 = _mm_setr_epi8(0, -1, -1, 1, -1, -1, 2, -1, -1, 3, -1, -1, 4, -1, -1, 5);
  const __m128i g0 = _mm_setr_epi8(-1, 0, -1, -1, 1, -1, -1, 2, -1, -1, 3, -1, -1, 4, -1, -1);
  const __m128i b0 = _mm_setr_epi8(-1, -1, 0, -1, -1, 1, -1, -1, 2, -1, -1, 3, -1, -1, 4, -1);
  const __m128i r1 = _mm_setr_epi8(-1, -1, 6, -1, -1, 7, -1, -1, 8, -1, -1, 9, -1, -1, 10, -1);
  const __m128i g1 = _mm_setr_epi8(5, -1, -1, 6, -1, -1, 7, -1, -1, 8, -1, -1, 9, -1, -1, 10);
  const __m128i b1 = _mm_setr_epi8(-1, 5, -1, -1, 6, -1, -1, 7, -1, -1, 8, -1, -1, 9, -1, -1);
  const __m128i r2 = _mm_setr_epi8(-1, 11, -1, -1, 12, -1, -1, 13, -1, -1, 14, -1, -1, 15, -1, -1);
  const __m128i g2 = _mm_setr_epi8(-1, -1, 11, -1, -1, 12, -1, -1, 13, -1, -1, 14, -1, -1, 15, -1);
  const __m128i b2 = _mm_setr_epi8(10, -1, -1, 11, -1, -1, 12, -1, -1, 13, -1, -1, 14, -1, -1, 15);
  ptrdiff_t i = 0;
  for (; i + 16 <= g.n; i += 16) {
    const __m128i x = load16(g.planes + i), y = load16(g.planes + g.ld + i), z = load16(g.planes + 2 * g.ld + i);
    uint8_t* out = g.out + 3 * i;
    store16(out, _mm_shuffle_epi8(x, r0), _mm_shuffle_epi8(y, g0), _mm_shuffle_epi8(z, b0));
    store16(out + 16, _mm_shuffle_epi8(x, r1), _mm_shuffle_epi8(y, g1), _mm_shuffle_epi8(z, b1));
    store16(out + 32, _mm_shuffle_epi8(x, r2), _mm_shuffle_epi8(y, g2), _mm_shuffle_epi8(z, b2));
  }
  for (; i < g.n; ++i)
    for (int c = 0; c < 3; ++c) g.out[3 * i + c] = g.planes[c * g.ld + i];
}

}  // namespace avx2
}  // namespace qgemm
