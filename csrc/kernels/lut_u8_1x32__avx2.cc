#include "kernels/epilogue__avx2.h"

namespace qgemm {
namespace avx2 {

namespace {

// Sixteen 16-entry byte shuffles. For part i, x ^ 16i is below 16 exactly where the high nibble of x is i; a saturating add of
// 0x70 sets the top bit of all others, for which the shuffle gives 0.
QGEMM_INLINE __m256i look_up(const uint8_t* table, __m256i x) {
  __m256i r = _mm256_setzero_si256();
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    const __m256i part = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table + 16 * i)));
    const __m256i index =
        _mm256_adds_epu8(_mm256_xor_si256(x, _mm256_set1_epi8(static_cast<char>(16 * i))), _mm256_set1_epi8(0x70));
    r = _mm256_or_si256(r, _mm256_shuffle_epi8(part, index));
  }
  return r;
}

}  // namespace

void lut_u8_1x32(const lut_args& g) {
  for (ptrdiff_t r = 0; r < g.rows; ++r) {
    const uint8_t* x = g.x + r * g.ldx;
    uint8_t* out = g.out + r * g.ldo;
    ptrdiff_t i = 0;
    for (; i + 32 <= g.n; i += 32) {
      const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), look_up(g.table, v));
    }
    for (; i < g.n; ++i) out[i] = g.table[x[i]];
  }
}

}  // namespace avx2
}  // namespace qgemm
