// The tile of gemm_u8s8__avx512vnni.h over a panel of nibbles. A register of it becomes two of weights by a shift and two ands:
// the four bits stand in the upper half of their bytes, so that all products are 16 times too large, and one shift of the sums at
// the end makes up for it. That is 6 instructions a step beside the 4 * MR multiplications, on ports that do not multiply where a
// core has any; what it saves is half of the bytes that have to be read.
#include "kernels/gemm_u8s8__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {
namespace {

// 4 k of all columns: NV / 2 pieces of 64 bytes, each two registers of weights, low nibbles first.
template <int MR, int NV>
QGEMM_INLINE void step(__m512i (&acc)[MR][NV], const uint8_t* b, const uint8_t* const* a, ptrdiff_t k) {
  const __m512i upper = _mm512_set1_epi8(static_cast<char>(0xf0));
  __m512i bv[NV];
#pragma GCC unroll 2
  for (int j = 0; j < NV; j += 2) {
    const __m512i w = _mm512_loadu_si512(b + 32 * j);
    bv[j] = _mm512_and_si512(_mm512_slli_epi16(w, 4), upper);
    bv[j + 1] = _mm512_and_si512(w, upper);
  }
#pragma GCC unroll 8
  for (int i = 0; i < MR; ++i) {
    const __m512i av = broadcast4(a[i] + k);
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) acc[i][j] = _mm512_dpbusd_epi32(acc[i][j], av, bv[j]);
  }
}

template <int MR, int NV>
static __attribute__((noinline)) void tile(const gemm_args& g) {
  constexpr int kParts = MR * NV <= 4 ? 2 : 1;  // as in gemm: one row has too few chains
  __m512i sum[kParts][MR][NV];
#pragma GCC unroll 2
  for (int p = 0; p < kParts; ++p)
#pragma GCC unroll 8
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) sum[p][i][j] = _mm512_setzero_si512();
  const ptrdiff_t whole = g.kc & ~3, part = whole / (4 * kParts) * 4;
  const int tail = g.kc & 3;
  const uint8_t *b = reinterpret_cast<const uint8_t*>(g.b), *a[MR];
#pragma GCC unroll 8
  for (int i = 0; i < MR; ++i) a[i] = g.base + i * g.lda + g.offset + whole;
  ptrdiff_t k = -whole;
  if constexpr (kParts > 1) {
#pragma GCC unroll 1
    for (const ptrdiff_t end = k + part; k < end; k += 4, b += 32 * NV) {
#pragma GCC unroll 2
      for (int p = 0; p < kParts; ++p) step<MR, NV>(sum[p], b + p * part * (8 * NV), a, k + p * part);
    }
    b += (kParts - 1) * part * (8 * NV);
    k += (kParts - 1) * part;
  }
#pragma GCC unroll 1
  for (; k < 0; k += 4, b += 32 * NV) step<MR, NV>(sum[0], b, a, k);
  if (tail) {
    uint32_t last[MR];
    const uint8_t* at[MR];
#pragma GCC unroll 1
    for (int i = 0; i < MR; ++i) {
      const uint8_t* p = g.base + i * g.lda + g.offset + whole;
      last[i] = p[0] | static_cast<uint32_t>(p[tail > 1 ? 1 : 0]) << (tail > 1 ? 8 : 0) |
                static_cast<uint32_t>(p[tail - 1]) << (8 * (tail - 1));
    }
#pragma GCC unroll 8
    for (int i = 0; i < MR; ++i) at[i] = reinterpret_cast<const uint8_t*>(&last[i]);
    step<MR, NV>(sum[0], b, at, 0);
  }
  // The sums in registers, where the loop has them: else the compiler keeps some in memory, from where the end takes them.
#pragma GCC unroll 8
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) __asm__("" : "+v"(sum[0][i][j]));
  __m512i acc[MR][NV];
#pragma GCC unroll 4
  for (int j = 0; j < NV; ++j) {
    const __m512i correction = _mm512_loadu_si512(g.ep->correction + g.col + 16 * j);
#pragma GCC unroll 8
    for (int i = 0; i < MR; ++i) {
      const __m512i all = kParts > 1 ? _mm512_add_epi32(sum[0][i][j], sum[kParts - 1][i][j]) : sum[0][i][j];
      acc[i][j] = _mm512_add_epi32(_mm512_srai_epi32(all, 4), correction);
    }
  }
  finish_tile<MR, NV>(g, acc);
}

template <int MR, int NV>
QGEMM_INLINE void choose(const gemm_args& g) {
  if constexpr (MR > 0) {
    if (g.m == MR)
      tile<MR, NV>(g);
    else
      choose<MR - 1, NV>(g);
  }
}

template <int MR, int NV>
QGEMM_INLINE void tiles(const gemm_args& g) {
  const GemmCut cut = gemm_cut(g.m, MR);
  gemm_args one = g;
  for (int32_t i = 0; i < cut.tiles; ++i) {
    const int32_t first = gemm_tile_begin(cut, i);
    one.m = gemm_tile_begin(cut, i + 1) - first;
    one.base = g.base + first * g.lda;
    one.row = g.row + first;
    one.c = static_cast<char*>(g.c) + first * g.ldc;
    choose<MR, NV>(one);
  }
}

}  // namespace

void gemm4_u8s4_6x64(const gemm4_args& g) {
  if (g.width == 64)
    tiles<6, 4>(g);
  else
    tiles<6, 2>(g);
}

}  // namespace avx512vnni
}  // namespace qgemm
