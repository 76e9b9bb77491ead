// The products of the AVX-512 GEMM's tiles: MR rows x NV registers of 16 columns, all of K.
//
// vpdpbusd adds four u8*s8 products to an int32 lane and wraps, so partial sums in any order give the exact result mod 2^32. Each
// row's four bytes are broadcast by a plain load (no port-5 work); each weight register serves MR rows. A tile has MR*NV
// independent chains, enough to hide vpdpbusd's latency at two a cycle once MR*NV >= 10.
#pragma once
#include <string.h>

#include "kernels/epilogue__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {

QGEMM_INLINE __m512i broadcast4(const uint8_t* a) {
  int32_t v;
  memcpy(&v, a, 4);
  return _mm512_set1_epi32(v);
}

// Column register j of a step, and its products. kHalf: the last of NV registers holds 8 columns or fewer, and only half of it is
// computed.
template <int NV, bool kHalf>
QGEMM_INLINE __m512i weights(const int8_t* b, int j) {
  if (kHalf && j == NV - 1) return _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(b + 64 * j)));
  return _mm512_loadu_si512(b + 64 * j);
}
template <int NV, bool kHalf>
QGEMM_INLINE __m512i products(__m512i acc, __m512i a, __m512i b, int j) {
  if (kHalf && j == NV - 1)
    return _mm512_castsi256_si512(
        _mm256_dpbusd_epi32(_mm512_castsi512_si256(acc), _mm512_castsi512_si256(a), _mm512_castsi512_si256(b)));
  return _mm512_dpbusd_epi32(acc, a, b);
}

// One step: four bytes of each row, k bytes further on, by the panel's registers.
template <int MR, int NV, bool kHalf>
QGEMM_INLINE void add_step(__m512i (&acc)[MR][NV], const uint8_t* const* a, ptrdiff_t k, const int8_t* b) {
  __m512i bv[NV];
#pragma GCC unroll 4
  for (int j = 0; j < NV; ++j) {
    bv[j] = weights<NV, kHalf>(b, j);
    __asm__("" : "+v"(bv[j]));  // in a register: as an operand from memory it would be loaded again for each row
  }
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i) {
    const __m512i av = broadcast4(a[i] + k);
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) acc[i][j] = products<NV, kHalf>(acc[i][j], av, bv[j], j);
  }
}

// Bytes to the second half of the panel that is prefetched.
QGEMM_INLINE ptrdiff_t second_half(const gemm_args& g) { return static_cast<ptrdiff_t>((g.kc + 3) / 4) * g.taps * g.width * 2; }

// Tiles of few registers have too few chains: K is then cut in 2 or 4 parts that are summed side by side, each with accumulators
// of its own. Consecutive steps in turn would do for the chains, but a load instruction must go on walking line by line: skipping
// lines, it defeats the hardware prefetcher, which costs a quarter of the rate over weights in L3.
constexpr int k_parts(int chains) { return chains <= 2 ? 4 : chains <= 4 ? 2 : 1; }

// Where a tile finds its taps: there is one; each has pointers of its own, rows: [taps][MR]; or rows: [MR], and every row has
// them equally far on (tap_at).
enum class Taps { one, table, apart };

// A tile's sums, from the correction on. rows: `offset` bytes before what is read. kTails: kc may be no multiple of 4.
template <int MR, int NV, bool kTails, Taps kTaps, bool kHalf = false>
QGEMM_INLINE void multiply(const gemm_args& g, const uint8_t* const* rows, ptrdiff_t offset, const int8_t* next,
                           __m512i (&acc)[MR][NV]) {
#pragma GCC unroll 4
  for (int j = 0; j < NV; ++j) {
    acc[0][j] = _mm512_loadu_si512(g.ep->correction + g.col + 16 * j);
#pragma GCC unroll 16
    for (int i = 1; i < MR; ++i) acc[i][j] = acc[0][j];
  }
  constexpr int kParts = k_parts(MR * NV);
  __m512i later[kParts][MR][NV];  // accumulators of the parts after the first
#pragma GCC unroll 4
  for (int p = 1; p < kParts; ++p)
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) later[p][i][j] = _mm512_setzero_si512();

  const int8_t* b = g.b;
  const ptrdiff_t whole = g.kc & ~3, last_group = offset + whole;
  const int tail = g.kc & 3;
  int left_of_line = g.line;
  const uint8_t* a[MR];
  if constexpr (kTaps == Taps::apart) {
    static_assert(kParts == 1 && !kTails, "");
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) a[i] = rows[i] + offset;
    const ptrdiff_t *tap = g.tap_at, *const last_tap = tap + g.taps;
#pragma GCC unroll 1
    for (; tap != last_tap; ++tap) {
      ptrdiff_t k = *tap;
#pragma GCC unroll 1
      for (const ptrdiff_t end = k + whole; k != end; k += 4) {
        add_step<MR, NV, kHalf>(acc, a, k, b);
        b += 64 * NV;
      }
    }
    return;
  }
  for (int t = 0; t < (kTaps == Taps::one ? 1 : g.taps); ++t, rows += MR) {
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) a[i] = rows[i] + last_group;
    ptrdiff_t k = -whole;
    if constexpr (kParts > 1) {
      const ptrdiff_t part = whole / (4 * kParts) * 4;
#pragma GCC unroll 1
      for (const ptrdiff_t end = k + part; k < end; k += 4) {
#pragma GCC unroll 4
        for (int p = 0; p < kParts; ++p) {
          __m512i bv[NV];
#pragma GCC unroll 4
          for (int j = 0; j < NV; ++j) {
            bv[j] = _mm512_loadu_si512(b + p * part * (16 * NV) + 64 * j);
            __asm__("" : "+v"(bv[j]));  // in a register: as an operand from memory it would be loaded again for each row
          }
          __m512i(&sum)[MR][NV] = p == 0 ? acc : later[p];
#pragma GCC unroll 16
          for (int i = 0; i < MR; ++i) {
            const __m512i av = broadcast4(a[i] + k + p * part);
#pragma GCC unroll 4
            for (int j = 0; j < NV; ++j) sum[i][j] = _mm512_dpbusd_epi32(sum[i][j], av, bv[j]);
          }
        }
        b += 64 * NV;
      }
      b += (kParts - 1) * part * (16 * NV);
      k += (kParts - 1) * part;
    }
    if constexpr (kParts == 1 && kTails) {
      // The same loop as below, which brings two lines a step of another panel to L2 beside it.
      if (next) {
#pragma GCC unroll 1
        for (; k < 0; k += 4, next += 128) {
          __m512i bv[NV];
#pragma GCC unroll 4
          for (int j = 0; j < NV; ++j) bv[j] = _mm512_loadu_si512(b + 64 * j);
          b += 64 * NV;
          __builtin_prefetch(next, 0, 2);
          __builtin_prefetch(next + 64, 0, 2);
#pragma GCC unroll 16
          for (int i = 0; i < MR; ++i) {
            const __m512i av = broadcast4(a[i] + k);
#pragma GCC unroll 4
            for (int j = 0; j < NV; ++j) acc[i][j] = _mm512_dpbusd_epi32(acc[i][j], av, bv[j]);
          }
        }
      }
    }
#pragma GCC unroll 1
    for (; k < 0; k += 4) {
      add_step<MR, NV, kHalf>(acc, a, k, b);
      b += 64 * NV;
    }
    if (kTails && tail) {
      // The last kc % 4 bytes of each row, gathered without reading past it. In memory first, in one plain loop: branches between
      // the multiplications would make the compiler shuffle accumulators.
      uint32_t last[MR];
#pragma GCC unroll 1
      for (int i = 0; i < MR; ++i) {
        const uint8_t* p = rows[i] + last_group;
        last[i] = p[0] | static_cast<uint32_t>(p[tail > 1 ? 1 : 0]) << (tail > 1 ? 8 : 0) |
                  static_cast<uint32_t>(p[tail - 1]) << (8 * (tail - 1));
      }
      __m512i bv[NV];
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) bv[j] = _mm512_loadu_si512(b + 64 * j);
      b += 64 * NV;
#pragma GCC unroll 16
      for (int i = 0; i < MR; ++i) {
        const __m512i av = broadcast4(reinterpret_cast<const uint8_t*>(&last[i]));
#pragma GCC unroll 4
        for (int j = 0; j < NV; ++j) acc[i][j] = _mm512_dpbusd_epi32(acc[i][j], av, bv[j]);
      }
    }
    if (kTaps == Taps::table && --left_of_line == 0) {
      left_of_line = g.line;
      b += g.gap;
    }
  }
#pragma GCC unroll 4
  for (int p = 1; p < kParts; ++p)
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) acc[i][j] = _mm512_add_epi32(acc[i][j], later[p][i][j]);
}

// What rows have besides their taps, added to a tile's sums. a: of the tile's first row.
template <int MR, int NV, bool kHalf = false>
QGEMM_INLINE void multiply_rest(const gemm_args& g, const uint8_t* a, __m512i (&acc)[MR][NV]) {
  const ptrdiff_t bytes = g.rest_bytes;
  const int8_t* b = g.b + static_cast<ptrdiff_t>((g.kc + 3) / 4) * g.taps * (64 * NV);
#pragma GCC unroll 1
  for (const uint8_t* const end = a + bytes; a != end; a += 4, b += 64 * NV) {
    __m512i bv[NV];
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) {
      bv[j] = weights<NV, kHalf>(b, j);
      __asm__("" : "+v"(bv[j]));
    }
    const uint8_t* row = a;
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i, row += bytes) {
      const __m512i av = broadcast4(row);
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) acc[i][j] = products<NV, kHalf>(acc[i][j], av, bv[j], j);
    }
  }
}

}  // namespace avx512vnni
}  // namespace qgemm
