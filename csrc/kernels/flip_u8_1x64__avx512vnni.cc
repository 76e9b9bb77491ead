#include "kernels/epilogue__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {

void flip_u8_1x64(const flip_args& g) {
  const __m512i top = _mm512_set1_epi8(static_cast<char>(0x80));
  const bool dense = g.ldx == g.n;
  const ptrdiff_t rows = dense ? 1 : g.rows, n = dense ? g.rows * g.n : g.n;
  for (ptrdiff_t r = 0; r < rows; ++r) {
    const uint8_t* x = g.x + r * g.ldx;
    uint8_t* out = g.out + r * n;
    ptrdiff_t i = 0;
    for (; i + 64 <= n; i += 64) _mm512_storeu_si512(out + i, _mm512_xor_si512(_mm512_loadu_si512(x + i), top));
    if (i < n) {
      const __mmask64 k = lanes64(static_cast<int>(n - i));
      _mm512_mask_storeu_epi8(out + i, k, _mm512_xor_si512(_mm512_maskz_loadu_epi8(k, x + i), top));
    }
  }
}

}  // namespace avx512vnni
}  // namespace qgemm
