// AVX2 without VNNI. vpmaddubsw would saturate its 16-bit sums, so even and odd bytes are widened to 16 bits and multiplied with
// vpmaddwd, which is exact: |255 * 128 * 2| fits int32. The widened weights serve all rows of the tile.
#include "kernels/epilogue__avx2.h"

namespace qgemm {
namespace avx2 {
namespace {

QGEMM_INLINE void step(__m256i (*acc)[2], int rows, const int32_t* av, const int8_t* b) {
  __m256i even[2], odd[2];
#pragma GCC unroll 2
  for (int j = 0; j < 2; ++j) {
    const __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b + 32 * j));
    even[j] = _mm256_srai_epi16(_mm256_slli_epi16(w, 8), 8);
    odd[j] = _mm256_srai_epi16(w, 8);
  }
#pragma GCC unroll 4
  for (int i = 0; i < rows; ++i) {
    const __m256i a = _mm256_set1_epi32(av[i]);
    const __m256i ae = _mm256_and_si256(a, _mm256_set1_epi16(0xff)), ao = _mm256_srli_epi16(a, 8);
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j)
      acc[i][j] = _mm256_add_epi32(acc[i][j], _mm256_add_epi32(_mm256_madd_epi16(ae, even[j]), _mm256_madd_epi16(ao, odd[j])));
  }
}

template <int MR>
void tile(const gemm_args& g, const uint8_t* const* rows, ptrdiff_t offset, int j0) {
  __m256i acc[MR][2];
#pragma GCC unroll 4
  for (int i = 0; i < MR; ++i) acc[i][0] = acc[i][1] = _mm256_setzero_si256();
  const ptrdiff_t stride = static_cast<ptrdiff_t>(g.width) * 4;
  const int8_t* b = g.b + j0 * 4;
  const int whole = g.kc & ~3, tail = g.kc & 3;
  int left_of_line = g.line;
  for (int t = 0; t < g.taps; ++t, rows += g.m) {
    int32_t av[MR];
    for (int k = 0; k < whole; k += 4, b += stride) {
#pragma GCC unroll 4
      for (int i = 0; i < MR; ++i) memcpy(&av[i], rows[i] + offset + k, 4);
      step(acc, MR, av, b);
    }
    if (tail) {
#pragma GCC unroll 4
      for (int i = 0; i < MR; ++i) {
        uint32_t v = 0;
        for (int q = 0; q < tail; ++q) v |= static_cast<uint32_t>(rows[i][offset + whole + q]) << (8 * q);
        av[i] = static_cast<int32_t>(v);
      }
      step(acc, MR, av, b);
      b += stride;
    }
    if (--left_of_line == 0) {
      left_of_line = g.line;
      b += g.gap;
    }
  }
  for (int k = 0; g.rest && k < g.rest_bytes; k += 4, b += stride) {
    int32_t av[MR];
#pragma GCC unroll 4
    for (int i = 0; i < MR; ++i) memcpy(&av[i], g.rest + i * g.rest_bytes + k, 4);
    step(acc, MR, av, b);
  }
  const int size = out_bytes(g.ep->out);
#pragma GCC unroll 4
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      const int col = j0 + 8 * j, n = g.n - col;
      if (n > 0)
        store_acc8(*g.ep, acc[i][j], g.row + i, g.col + col, n < 8 ? n : 8, static_cast<char*>(g.c) + i * g.ldc + col * size);
    }
}

}  // namespace

void gemm_u8s8_3x16(const gemm_args& g) {
  if (g.panels > 1) {
    for (int p = 0; p < g.panels; ++p) gemm_u8s8_3x16(gemm_panel(g, p));
    return;
  }
  if (g.sets > 1) {
    for (int s = 0; s < g.sets; ++s) gemm_u8s8_3x16(gemm_set(g, s));
    for (ptrdiff_t i = 0; i < g.ahead_bytes; i += 64) __builtin_prefetch(g.ahead + i, 0, 2);
    return;
  }
  gemm_args one = g;
  const GemmCut cut = gemm_cut(g.m, g.tile_rows);
  for (int i = 0; i < cut.tiles; ++i) {
    const int begin = gemm_tile_begin(cut, i);
    const uint8_t* of_matrix[3 * kMaxTapsOfRows];
    one.m = gemm_tile_begin(cut, i + 1) - begin;
    one.rest = g.rest ? g.rest + begin * g.rest_bytes : nullptr;
    one.row = g.row + begin;
    one.c = static_cast<char*>(g.c) + begin * g.ldc;
    for (int t = 0; !g.tiles && t < (g.tap_at ? g.taps : 1); ++t)
      for (int r = 0; r < one.m; ++r) of_matrix[t * one.m + r] = g.base + (begin + r) * g.lda + (g.tap_at ? g.tap_at[t] : 0);
    const uint8_t* const* rows = g.tiles ? g.tiles[i].rows : of_matrix;
    const ptrdiff_t offset = g.offset + (g.tiles ? g.tiles[i].offset : 0);
    for (int j0 = 0; j0 < g.n; j0 += 16) switch (one.m) {
        case 3:
          tile<3>(one, rows, offset, j0);
          break;
        case 2:
          tile<2>(one, rows, offset, j0);
          break;
        case 1:
          tile<1>(one, rows, offset, j0);
          break;
      }
  }
}

}  // namespace avx2
}  // namespace qgemm
