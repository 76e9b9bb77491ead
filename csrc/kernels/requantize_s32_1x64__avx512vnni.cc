#include "kernels/epilogue__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {

void requantize_s32_1x64(const requantize_args& g) {
  const Epilogue& e = *g.ep;
  const bool bytes = e.out == OutType::u8 || e.out == OutType::s8;
  const int size = bytes ? 1 : 4;
  int n = 0;
  if (bytes) {
    for (; n + 64 <= g.n; n += 64) {
      __m512i acc[4];
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j)
        acc[j] = _mm512_add_epi32(_mm512_loadu_si512(g.acc + n + 16 * j), _mm512_loadu_si512(e.correction + n + 16 * j));
      store_bytes<4>(e, acc, 0, n, 64, static_cast<char*>(g.c) + n);
    }
  }
  for (; n < g.n; n += 16) {
    const int valid = g.n - n < 16 ? g.n - n : 16;
    char* c = static_cast<char*>(g.c) + static_cast<ptrdiff_t>(n) * size;
    const __m512i acc = _mm512_add_epi32(_mm512_loadu_si512(g.acc + n), _mm512_loadu_si512(e.correction + n));
    if (bytes)
      store_bytes<1>(e, &acc, 0, n, valid, c);
    else if (e.out == OutType::f32)
      store_floats<1>(e, &acc, 0, n, valid, c);
    else
      _mm512_mask_storeu_epi32(c, lanes16(valid), acc);
  }
}

}  // namespace avx512vnni
}  // namespace qgemm
