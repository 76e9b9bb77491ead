#include "kernels/epilogue__avx2.h"

namespace qgemm {
namespace avx2 {

namespace {

// n bytes as two pieces that may share some: of one register each, or of the largest power of two that fits.
QGEMM_INLINE void copy_short(const uint8_t* a, uint8_t* out, ptrdiff_t n) {
  if (n >= 16) {
    const __m128i first = _mm_loadu_si128(reinterpret_cast<const __m128i*>(a)),
                  last = _mm_loadu_si128(reinterpret_cast<const __m128i*>(a + n - 16));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), first);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + n - 16), last);
  } else if (n >= 8) {
    uint64_t first, last;
    memcpy(&first, a, 8);
    memcpy(&last, a + n - 8, 8);
    memcpy(out, &first, 8);
    memcpy(out + n - 8, &last, 8);
  } else {
    for (ptrdiff_t i = 0; i < n; ++i) out[i] = a[i];
  }
}

}  // namespace

void gather_u8_1x32(const gather_args& g) {
  for (ptrdiff_t r = 0; r < g.rows; ++r) {
    const uint8_t* a = g.piece(r);
    uint8_t* out = g.out + r * g.ldo;
    if (g.n < 32) {
      copy_short(a, out, g.n);
      continue;
    }
    for (ptrdiff_t i = 0; i + 32 <= g.n; i += 32)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), _mm256_loadu_si256(reinterpret_cast<const __m256i*>(a + i)));
    const ptrdiff_t last = g.n - 32;
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + last), _mm256_loadu_si256(reinterpret_cast<const __m256i*>(a + last)));
  }
}

}  // namespace avx2
}  // namespace qgemm
