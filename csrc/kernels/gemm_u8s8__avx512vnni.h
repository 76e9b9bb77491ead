// The register tile of every AVX-512 VNNI GEMM: MR rows x NV registers of 16 columns, all of K, epilogue from registers.
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

// n bytes of a row, all of them in the common case.
QGEMM_INLINE void store32(char* p, __m256i v, int n) {
  if (n == 32)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v);
  else
    _mm256_mask_storeu_epi8(p, static_cast<__mmask32>(lanes64(n)), v);
}
QGEMM_INLINE void store16(char* p, __m128i v, int n) {
  if (n == 16)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), v);
  else
    _mm_mask_storeu_epi8(p, lanes16(n), v);
}

// The tile to u8/s8, every row with the same terms. Columns outside, rows inside: scale and bias are loaded once a column, and
// what is constant sits in registers, where the stores to C (which may alias anything) cannot force it to be loaded again. Four
// registers of results, of one row or of several, go through two in-lane packs and one permute into 64 bytes. kBounded: no input
// can bring y * inv_scale near 2^31, so the upper clamp waits until the values are bytes.
template <int MR, int NV, bool kBounded>
QGEMM_INLINE void store_tile_bytes(const Epilogue& e, __m512i (*acc)[NV], int col, int n, void* c, ptrdiff_t ldc) {
  const __m512 inv_scale = _mm512_set1_ps(e.inv_scale), top = _mm512_set1_ps(static_cast<float>(e.hi - e.zero_point));
  const __m512i zero_point = _mm512_set1_epi16(static_cast<short>(e.zero_point));
  const __m512i lo = _mm512_set1_epi8(static_cast<char>(e.lo)), hi = _mm512_set1_epi8(static_cast<char>(e.hi));
  const __m512i flip = _mm512_set1_epi8(e.out == OutType::s8 ? static_cast<char>(0x80) : 0);
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
#pragma GCC unroll 4
  for (int j = 0; j < NV; ++j) {
    const __m512 scale = _mm512_loadu_ps(e.scale + col + 16 * j), bias = _mm512_loadu_ps(e.bias + col + 16 * j);
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) {
      __m512 y = _mm512_mul_ps(_mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[i][j]), scale, bias), inv_scale);
      if (!kBounded) y = _mm512_min_ps(y, top);
      acc[i][j] = _mm512_cvtps_epi32(y);
    }
  }
  constexpr int kRows = NV == 1 ? 4 : NV == 2 ? 2 : 1;  // rows in 64 bytes
  char* line = static_cast<char*>(c);
#pragma GCC unroll 16
  for (int i = 0; i < MR; i += kRows) {
    __m512i q[4];
#pragma GCC unroll 4
    for (int x = 0; x < 4; ++x) q[x] = x < kRows * NV && i + x / NV < MR ? acc[i + x / NV][x % NV] : acc[i][0];
    const __m512i low = _mm512_adds_epi16(_mm512_packs_epi32(q[0], q[1]), zero_point);
    const __m512i high = _mm512_adds_epi16(_mm512_packs_epi32(q[2], q[3]), zero_point);
    const __m512i clamped = _mm512_min_epu8(_mm512_max_epu8(_mm512_packus_epi16(low, high), lo), hi);
    const __m512i b = _mm512_permutexvar_epi32(order, _mm512_xor_si512(clamped, flip));
    if constexpr (NV >= 3) {
      if (n == 64)
        _mm512_storeu_si512(line, b);
      else
        _mm512_mask_storeu_epi8(line, lanes64(n), b);
      line += ldc;
    } else if constexpr (NV == 2) {
      store32(line, _mm512_castsi512_si256(b), n);
      if (i + 1 < MR) store32(line + ldc, _mm512_extracti64x4_epi64(b, 1), n);
      line += 2 * ldc;
    } else {
      store16(line, _mm512_castsi512_si128(b), n);
      if (i + 1 < MR) store16(line + ldc, _mm512_extracti32x4_epi32(b, 1), n);
      if (i + 2 < MR) store16(line + 2 * ldc, _mm512_extracti32x4_epi32(b, 2), n);
      if (i + 3 < MR) store16(line + 3 * ldc, _mm512_extracti32x4_epi32(b, 3), n);
      line += 4 * ldc;
    }
  }
}

// The tile's registers as they are, 4 bytes a column.
template <int MR, int NV>
QGEMM_INLINE void store_tile_dwords(__m512i (*acc)[NV], int n, void* c, ptrdiff_t ldc) {
  char* line = static_cast<char*>(c);
  if (n == 16 * NV) {
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i, line += ldc)
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) _mm512_storeu_si512(line + 64 * j, acc[i][j]);
    return;
  }
  // Valid columns of the last register; the registers before it are full (a panel is as narrow as its columns allow).
  const __mmask16 k = lanes16(n - 16 * (NV - 1));
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i, line += ldc) {
#pragma GCC unroll 4
    for (int j = 0; j + 1 < NV; ++j) _mm512_storeu_si512(line + 64 * j, acc[i][j]);
    _mm512_mask_storeu_epi32(line + 64 * (NV - 1), k, acc[i][NV - 1]);
  }
}

// The tile to fp32. kRows: each row has its own zero point and scale (dynamic quantization).
template <int MR, int NV, bool kRows>
QGEMM_INLINE void store_tile_floats(const Epilogue& e, __m512i (*acc)[NV], int row, int col, int n, void* c, ptrdiff_t ldc) {
  const __m512 f_lo = _mm512_set1_ps(e.f_lo), f_hi = _mm512_set1_ps(e.f_hi);
  const int32_t* zero_point = e.row_zero_point + row;
  const float* row_scale = e.row_scale + row;
#pragma GCC unroll 4
  for (int j = 0; j < NV; ++j) {
    const __m512 scale = _mm512_loadu_ps(e.scale + col + 16 * j), bias = _mm512_loadu_ps(e.bias + col + 16 * j);
    const __m512i colsum = kRows ? _mm512_loadu_si512(e.colsum + col + 16 * j) : _mm512_setzero_si512();
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) {
      __m512 s = scale;
      if (kRows) {
        acc[i][j] = _mm512_sub_epi32(acc[i][j], _mm512_mullo_epi32(_mm512_set1_epi32(zero_point[i]), colsum));
        s = _mm512_mul_ps(scale, _mm512_set1_ps(row_scale[i]));
      }
      const __m512 y = _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[i][j]), s, bias);
      acc[i][j] = _mm512_castps_si512(_mm512_min_ps(_mm512_max_ps(y, f_lo), f_hi));
    }
  }
  store_tile_dwords<MR, NV>(acc, n, c, ldc);
}

// The tile added to a tile of floats: c = fmaf((float)acc, scale, c).
template <int MR, int NV>
QGEMM_INLINE void add_tile_floats(const Epilogue& e, __m512i (*acc)[NV], int col, int n, void* c, ptrdiff_t ldc) {
  const __mmask16 last = lanes16(n - 16 * (NV - 1));
#pragma GCC unroll 4
  for (int j = 0; j < NV; ++j) {
    const __m512 scale = _mm512_loadu_ps(e.scale + col + 16 * j);
    const __mmask16 k = j + 1 < NV ? static_cast<__mmask16>(0xffff) : last;
    char* line = static_cast<char*>(c) + 64 * j;
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i, line += ldc)
      acc[i][j] = _mm512_castps_si512(_mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[i][j]), scale, _mm512_maskz_loadu_ps(k, line)));
  }
  store_tile_dwords<MR, NV>(acc, n, c, ldc);
}

// acc[i] -= rows[i] * columns: a term of the accumulator that is a product of a number a row and one a column.
template <int MR, int NV>
QGEMM_INLINE void subtract_rows(__m512i (*acc)[NV], const int32_t* rows, const int32_t* columns) {
#pragma GCC unroll 4
  for (int j = 0; j < NV; ++j) {
    const __m512i column = _mm512_loadu_si512(columns + 16 * j);
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) acc[i][j] = _mm512_sub_epi32(acc[i][j], _mm512_mullo_epi32(_mm512_set1_epi32(rows[i]), column));
  }
}

// Tiles of few registers have too few chains: K is then cut in 2 or 4 parts that are summed side by side, each with accumulators
// of its own. Consecutive steps in turn would do for the chains, but a load instruction must go on walking line by line: skipping
// lines, it defeats the hardware prefetcher, which costs a quarter of the rate over weights in L3.
constexpr int k_parts(int chains) { return chains <= 2 ? 4 : chains <= 4 ? 2 : 1; }

template <int MR, int NV>
static void gemm_tile(const gemm_args& g) {
  __m512i acc[MR][NV];
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
  const uint8_t* const* rows = g.a;
  const ptrdiff_t whole = g.kc & ~3, last_group = g.offset + whole;
  const int tail = g.kc & 3;
  for (int t = 0; t < g.taps; ++t, rows += g.m) {
    const uint8_t* a[MR];
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
    if constexpr (kParts == 1) {
      // The same loop as below, which brings two lines a step of another panel to L2 beside it.
      if (g.next) {
        const int8_t* next = g.next;
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
  }
#pragma GCC unroll 4
  for (int p = 1; p < kParts; ++p)
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) acc[i][j] = _mm512_add_epi32(acc[i][j], later[p][i][j]);
  const Epilogue& e = *g.ep;
  const bool bytes = e.out == OutType::u8 || e.out == OutType::s8, narrow = g.n > 16 * (NV - 1);  // narrow: no empty register,
  const bool same_rows = !e.row_zero_point && !e.row_scale;                                       // what drivers always give
  const bool dynamic = e.row_zero_point && e.row_scale && e.out == OutType::f32;
  const bool accumulate = e.out == OutType::f32_accumulate;
  if ((accumulate || same_rows) ? (bytes || narrow) : (dynamic && narrow)) {
    if (e.row_sum) subtract_rows<MR, NV>(acc, e.row_sum + g.row, e.w_zero_point + g.col);
    if (bytes) {
      if (e.bounded)
        store_tile_bytes<MR, NV, true>(e, acc, g.col, g.n, g.c, g.ldc);
      else
        store_tile_bytes<MR, NV, false>(e, acc, g.col, g.n, g.c, g.ldc);
    } else if (accumulate) {
      if (e.row_zero_point) subtract_rows<MR, NV>(acc, e.row_zero_point + g.row, e.colsum + g.col);
      add_tile_floats<MR, NV>(e, acc, g.col, g.n, g.c, g.ldc);
    } else if (dynamic) {
      store_tile_floats<MR, NV, true>(e, acc, g.row, g.col, g.n, g.c, g.ldc);
    } else if (e.out == OutType::f32) {
      store_tile_floats<MR, NV, false>(e, acc, g.row, g.col, g.n, g.c, g.ldc);
    } else {
      store_tile_dwords<MR, NV>(acc, g.n, g.c, g.ldc);
    }
  } else {
    int32_t spilled[MR * NV * 16];
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) _mm512_storeu_si512(spilled + (i * NV + j) * 16, acc[i][j]);
    store_spilled(e, spilled, MR, NV, g.row, g.col, g.n, g.c, g.ldc);
  }
}

// The instantiation for g.m rows, 1..MR.
template <int MR, int NV>
struct GemmRows {
  QGEMM_INLINE void run(const gemm_args& g) {
    if (g.m == MR)
      gemm_tile<MR, NV>(g);
    else
      GemmRows<MR - 1, NV>::run(g);
  }
};
template <int NV>
struct GemmRows<0, NV> {
  QGEMM_INLINE void run(const gemm_args&) {}
};

}  // namespace avx512vnni
}  // namespace qgemm
