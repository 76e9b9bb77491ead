// The register tile of every AVX-512 VNNI GEMM: MR rows x NV registers of 16 columns, all of K, epilogue from registers.
//
// vpdpbusd adds four u8*s8 products to an int32 lane and wraps, so partial sums in any order give the exact result mod 2^32. Each row's
// four bytes are broadcast by a plain load (no port-5 work); each weight register serves MR rows. A tile has MR*NV independent chains,
// enough to hide vpdpbusd's latency at two a cycle once MR*NV >= 10.
#pragma once
#include <string.h>

#include "kernels/epilogue__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {

// The last kc % 4 bytes of a row, without reading past it.
QGEMM_INLINE __m512i broadcast_tail(const uint8_t* a, int bytes) {
  uint32_t v = a[0];
  if (bytes > 1) v |= static_cast<uint32_t>(a[1]) << 8;
  if (bytes > 2) v |= static_cast<uint32_t>(a[2]) << 16;
  return _mm512_set1_epi32(static_cast<int>(v));
}

QGEMM_INLINE __m512i broadcast4(const uint8_t* a) {
  int32_t v;
  memcpy(&v, a, 4);
  return _mm512_set1_epi32(v);
}

template <int MR, int NV>
static void gemm_tile(const gemm_args& g) {
  __m512i acc[MR][NV];
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) acc[i][j] = _mm512_setzero_si512();

  const int8_t* b = g.b;
  const uint8_t* const* rows = g.a;
  const ptrdiff_t whole = g.kc & ~3;
  const int tail = g.kc & 3;
  for (int t = 0; t < g.taps; ++t, rows += g.m) {
    const uint8_t* a[MR];
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) a[i] = rows[i] + whole;
#pragma GCC unroll 1
    for (ptrdiff_t k = -whole; k < 0; k += 4) {
      __m512i bv[NV];
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) bv[j] = _mm512_loadu_si512(b + 64 * j);
      b += 64 * NV;
#pragma GCC unroll 16
      for (int i = 0; i < MR; ++i) {
        const __m512i av = broadcast4(a[i] + k);
#pragma GCC unroll 4
        for (int j = 0; j < NV; ++j) acc[i][j] = _mm512_dpbusd_epi32(acc[i][j], av, bv[j]);
      }
    }
    if (tail) {
      __m512i bv[NV];
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) bv[j] = _mm512_loadu_si512(b + 64 * j);
      b += 64 * NV;
#pragma GCC unroll 16
      for (int i = 0; i < MR; ++i) {
        const __m512i av = broadcast_tail(a[i], tail);
#pragma GCC unroll 4
        for (int j = 0; j < NV; ++j) acc[i][j] = _mm512_dpbusd_epi32(acc[i][j], av, bv[j]);
      }
    }
  }
  char* c = static_cast<char*>(g.c);
  const Epilogue& e = *g.ep;
  if (e.out == OutType::u8 || e.out == OutType::s8) {
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) store_bytes<NV>(e, acc[i], g.row + i, g.col, g.n, c + i * g.ldc);
  } else if (e.out == OutType::f32) {
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) store_floats<NV>(e, acc[i], g.row + i, g.col, g.n, c + i * g.ldc);
  } else {
    int32_t spilled[MR * NV * 16] __attribute__((aligned(64)));
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) _mm512_store_si512(spilled + (i * NV + j) * 16, acc[i][j]);
    store_spilled(e, spilled, MR, NV, g.row, g.col, g.n, c, g.ldc);
  }
}

// The instantiation for g.m rows, 1..MR.
template <int MR, int NV>
struct GemmRows {
  QGEMM_INLINE void run(const gemm_args& g) {
    if (g.m == MR) gemm_tile<MR, NV>(g);
    else GemmRows<MR - 1, NV>::run(g);
  }
};
template <int NV>
struct GemmRows<0, NV> {
  QGEMM_INLINE void run(const gemm_args&) {}
};

}  // namespace avx512vnni
}  // namespace qgemm
