#include "kernels/epilogue__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {

void gather_u8_1x64(const gather_args& g) {
  if (!g.a && g.n <= 32) {
    const __mmask32 m = static_cast<__mmask32>(lanes64(static_cast<int>(g.n)));
    const uint8_t* a = g.base;
    uint8_t* out = g.out;
    for (ptrdiff_t r = 0; r < g.rows; ++r, a += g.step, out += g.ldo)
      _mm256_mask_storeu_epi8(out, m, _mm256_maskz_loadu_epi8(m, a));
    return;
  }
  if (g.n <= 64) {
    const __mmask64 m = lanes64(static_cast<int>(g.n));
    for (ptrdiff_t r = 0; r < g.rows; ++r) _mm512_mask_storeu_epi8(g.out + r * g.ldo, m, _mm512_maskz_loadu_epi8(m, g.piece(r)));
    return;
  }
  const ptrdiff_t whole = g.n / 64 * 64;
  const __mmask64 m = lanes64(static_cast<int>(g.n - whole));
  for (ptrdiff_t r = 0; r < g.rows; ++r) {
    const uint8_t* a = g.piece(r);
    uint8_t* out = g.out + r * g.ldo;
    for (ptrdiff_t i = 0; i < whole; i += 64) _mm512_storeu_si512(out + i, _mm512_loadu_si512(a + i));
    if (m) _mm512_mask_storeu_epi8(out + whole, m, _mm512_maskz_loadu_epi8(m, a + whole));
  }
}

}  // namespace avx512vnni
}  // namespace qgemm
