// A square of 16 x 16 dwords in registers, transposed: 16 rows of a weight become the columns of a panel.
#pragma once
#include "kernels/epilogue__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {

// r[i] dword x -> r[x] dword i.
QGEMM_INLINE void transpose16(__m512i* r) {
  __m512i t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  // r[4 * g + d] lane l: dword 4 * l + d of rows 4 * g .. 4 * g + 3.
#pragma GCC unroll 4
  for (int d = 0; d < 4; ++d) {
    __m512i v[4] = {r[d], r[4 + d], r[8 + d], r[12 + d]};
    transpose_lanes(v);
#pragma GCC unroll 4
    for (int l = 0; l < 4; ++l) t[4 * l + d] = v[l];
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) r[i] = t[i];
}

}  // namespace avx512vnni
}  // namespace qgemm
