// AVX2 over a panel of nibbles. With four bits vpmaddubsw cannot saturate: |255 * 8 * 2| fits int16. So bytes are multiplied as
// they are, without the widening of gemm_u8s8_3x16. Nibbles become bytes by a table look-up, which extends the sign with it.
#include "kernels/epilogue__avx2.h"

namespace qgemm {
namespace avx2 {
namespace {

// 32 columns of 4 k: a piece of 64 bytes, whose low nibbles are columns 0..15 and whose high ones 16..31.
template <int MR>
QGEMM_INLINE void step(__m256i (&acc)[MR][4], const uint8_t* b, const int32_t* av) {
  const __m256i nibble = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
  const __m256i values = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1));
#pragma GCC unroll 2
  for (int h = 0; h < 2; ++h) {
    const __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b + 32 * h));
    const __m256i low = _mm256_shuffle_epi8(values, _mm256_and_si256(w, nibble));
    const __m256i high = _mm256_shuffle_epi8(values, _mm256_and_si256(_mm256_srli_epi16(w, 4), nibble));
#pragma GCC unroll 2
    for (int i = 0; i < MR; ++i) {
      const __m256i a = _mm256_set1_epi32(av[i]);
      acc[i][h] = _mm256_add_epi32(acc[i][h], _mm256_madd_epi16(_mm256_maddubs_epi16(a, low), ones));
      acc[i][2 + h] = _mm256_add_epi32(acc[i][2 + h], _mm256_madd_epi16(_mm256_maddubs_epi16(a, high), ones));
    }
  }
}

template <int MR>
void tile(const gemm_args& g, int j0) {
  __m256i acc[MR][4];
#pragma GCC unroll 2
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) acc[i][j] = _mm256_setzero_si256();
  const ptrdiff_t stride = static_cast<ptrdiff_t>(g.width) * 2;
  const uint8_t *b = reinterpret_cast<const uint8_t*>(g.b) + j0 * 2, *a = g.base + g.offset;
  const int whole = g.kc & ~3, tail = g.kc & 3;
  int32_t av[MR];
  for (int k = 0; k < whole; k += 4, b += stride) {
#pragma GCC unroll 2
    for (int i = 0; i < MR; ++i) memcpy(&av[i], a + i * g.lda + k, 4);
    step<MR>(acc, b, av);
  }
  if (tail) {
#pragma GCC unroll 2
    for (int i = 0; i < MR; ++i) {
      uint32_t v = 0;
      for (int q = 0; q < tail; ++q) v |= static_cast<uint32_t>(a[i * g.lda + whole + q]) << (8 * q);
      av[i] = static_cast<int32_t>(v);
    }
    step<MR>(acc, b, av);
  }
  const int size = out_bytes(g.ep->out);
#pragma GCC unroll 2
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const int col = j0 + 8 * j, n = g.n - col;
      if (n > 0)
        store_acc8(*g.ep, acc[i][j], g.row + i, g.col + col, n < 8 ? n : 8, static_cast<char*>(g.c) + i * g.ldc + col * size);
    }
}

}  // namespace

void gemm4_u8s4_2x32(const gemm4_args& g) {
  gemm_args one = g;
  for (int i = 0; i < g.m; i += 2) {
    one.m = g.m - i < 2 ? 1 : 2;
    one.base = g.base + i * g.lda;
    one.row = g.row + i;
    one.c = static_cast<char*>(g.c) + i * g.ldc;
    for (int j0 = 0; j0 < g.n; j0 += 32) one.m == 2 ? tile<2>(one, j0) : tile<1>(one, j0);
  }
}

}  // namespace avx2
}  // namespace qgemm
