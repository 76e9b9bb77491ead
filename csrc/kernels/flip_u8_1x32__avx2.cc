#include "kernels/epilogue__avx2.h"

namespace qgemm {
namespace avx2 {

void flip_u8_1x32(const flip_args& g) {
  const __m256i top = _mm256_set1_epi8(static_cast<char>(0x80));
  const bool dense = g.ldx == g.n;
  const ptrdiff_t rows = dense ? 1 : g.rows, n = dense ? g.rows * g.n : g.n;
  for (ptrdiff_t r = 0; r < rows; ++r) {
    const uint8_t* x = g.x + r * g.ldx;
    uint8_t* out = g.out + r * n;
    ptrdiff_t i = 0;
    for (; i + 32 <= n; i += 32) {
      const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), _mm256_xor_si256(v, top));
    }
    for (; i < n; ++i) out[i] = x[i] ^ 0x80;
  }
}

}  // namespace avx2
}  // namespace qgemm
