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

constexpr int rows_in_64(int nv) { return nv == 1 ? 4 : nv == 2 ? 2 : 1; }

// 64 bytes, which are 1, 2 or 4 rows of a panel; of those `rows` are there.
template <int NV>
QGEMM_INLINE void store_64(char* line, __m512i b, int rows, int n, ptrdiff_t ldc) {
  if constexpr (NV >= 3) {
    if (n == 64)
      _mm512_storeu_si512(line, b);
    else
      _mm512_mask_storeu_epi8(line, lanes64(n), b);
  } else if constexpr (NV == 2) {
    store32(line, _mm512_castsi512_si256(b), n);
    if (rows > 1) store32(line + ldc, _mm512_extracti64x4_epi64(b, 1), n);
  } else {
    store16(line, _mm512_castsi512_si128(b), n);
    if (rows > 1) store16(line + ldc, _mm512_extracti32x4_epi32(b, 1), n);
    if (rows > 2) store16(line + 2 * ldc, _mm512_extracti32x4_epi32(b, 2), n);
    if (rows > 3) store16(line + 3 * ldc, _mm512_extracti32x4_epi32(b, 3), n);
  }
}

// What the ends of tiles do to their accumulators. Each is made once a strip, so that what is constant can sit in registers,
// where the stores to C (which may alias anything) cannot force it to be loaded again.
//
// To u8/s8, every row with the same terms. Columns outside, rows inside: scale and bias are loaded once a column. Four registers
// of results, of one row or of several, go through two in-lane packs and one permute into 64 bytes. kBounded: no input can bring
// y * inv_scale near 2^31, so the upper clamp waits until the values are bytes. whole: every byte is a result, and packing
// clamps. joined: rows are one piece of memory, and all columns valid.
template <bool kBounded>
struct ToBytes {
  __m512 inv_scale, top;
  __m512i zero_point, lo, hi, flip, order;
  const float *scale, *bias;
  ptrdiff_t ldc;
  int n;
  bool whole, joined;

  QGEMM_MEMBER ToBytes(const gemm_args& g)
      : inv_scale(_mm512_set1_ps(g.ep->inv_scale)),
        top(_mm512_set1_ps(static_cast<float>(g.ep->hi - g.ep->zero_point))),
        zero_point(_mm512_set1_epi16(static_cast<short>(g.ep->zero_point))),
        lo(_mm512_set1_epi8(static_cast<char>(g.ep->lo))),
        hi(_mm512_set1_epi8(static_cast<char>(g.ep->hi))),
        flip(_mm512_set1_epi8(g.ep->out == OutType::s8 ? static_cast<char>(0x80) : 0)),
        order(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)),
        scale(g.ep->scale + g.col),
        bias(g.ep->bias + g.col),
        ldc(g.ldc),
        n(g.n),
        whole(g.ep->lo == 0 && g.ep->hi == 255 && g.ep->out == OutType::u8),
        joined(g.ldc == g.n && g.n == g.width) {}

  // To other columns.
  QGEMM_MEMBER void go_on(int columns) { scale += columns, bias += columns; }

  template <int MR, int NV, bool kHalf = false>
  QGEMM_MEMBER void store(__m512i (*acc)[NV], int, char* c) const {
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) {
      if (kHalf && j == NV - 1) {
        const __m256 s = _mm256_loadu_ps(scale + 16 * j), t = _mm256_loadu_ps(bias + 16 * j);
#pragma GCC unroll 16
        for (int i = 0; i < MR; ++i) {
          const __m256 x = _mm256_cvtepi32_ps(_mm512_castsi512_si256(acc[i][j]));
          __m256 y = _mm256_mul_ps(_mm256_fmadd_ps(x, s, t), _mm512_castps512_ps256(inv_scale));
          if (!kBounded) y = _mm256_min_ps(y, _mm512_castps512_ps256(top));
          acc[i][j] = _mm512_castsi256_si512(_mm256_cvtps_epi32(y));
        }
        continue;
      }
      const __m512 s = _mm512_loadu_ps(scale + 16 * j), t = _mm512_loadu_ps(bias + 16 * j);
#pragma GCC unroll 16
      for (int i = 0; i < MR; ++i) {
        __m512 y = _mm512_mul_ps(_mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[i][j]), s, t), inv_scale);
        if (!kBounded) y = _mm512_min_ps(y, top);
        acc[i][j] = _mm512_cvtps_epi32(y);
      }
    }
    constexpr int kRows = rows_in_64(NV);
#pragma GCC unroll 16
    for (int i = 0; i < MR; i += kRows, c += kRows * ldc) {
      __m512i q[4];
#pragma GCC unroll 4
      for (int x = 0; x < 4; ++x) q[x] = x < kRows * NV && i + x / NV < MR ? acc[i + x / NV][x % NV] : acc[i][0];
      const __m512i low = _mm512_adds_epi16(_mm512_packs_epi32(q[0], q[1]), zero_point);
      const __m512i high = _mm512_adds_epi16(_mm512_packs_epi32(q[2], q[3]), zero_point);
      __m512i b = _mm512_packus_epi16(low, high);
      if (!whole) b = _mm512_xor_si512(_mm512_min_epu8(_mm512_max_epu8(b, lo), hi), flip);
      b = _mm512_permutexvar_epi32(order, b);
      if (kRows > 1 && MR - i >= kRows && joined)
        _mm512_storeu_si512(c, b);
      else
        store_64<NV>(c, b, MR - i, n, ldc);
    }
  }
};

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

struct ToDwords {
  ptrdiff_t ldc;
  int n;
  QGEMM_MEMBER ToDwords(const gemm_args& g) : ldc(g.ldc), n(g.n) {}
  QGEMM_MEMBER void go_on(int) {}

  template <int MR, int NV>
  QGEMM_MEMBER void store(__m512i (*acc)[NV], int, char* c) const {
    store_tile_dwords<MR, NV>(acc, n, c, ldc);
  }
};

// To fp32. kRows: each row has its own zero point and scale (dynamic quantization).
template <bool kRows>
struct ToFloats {
  __m512 lo, hi;
  const float *scale, *bias, *row_scale;
  const int32_t *colsum, *row_zero_point;
  ptrdiff_t ldc;
  int n;

  QGEMM_MEMBER ToFloats(const gemm_args& g)
      : lo(_mm512_set1_ps(g.ep->f_lo)),
        hi(_mm512_set1_ps(g.ep->f_hi)),
        scale(g.ep->scale + g.col),
        bias(g.ep->bias + g.col),
        row_scale(g.ep->row_scale),
        colsum(g.ep->colsum + g.col),
        row_zero_point(g.ep->row_zero_point),
        ldc(g.ldc),
        n(g.n) {}

  QGEMM_MEMBER void go_on(int columns) { scale += columns, bias += columns, colsum += columns; }

  template <int MR, int NV>
  QGEMM_MEMBER void store(__m512i (*acc)[NV], int row, char* c) const {
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) {
      const __m512 s = _mm512_loadu_ps(scale + 16 * j), t = _mm512_loadu_ps(bias + 16 * j);
      const __m512i columns = kRows ? _mm512_loadu_si512(colsum + 16 * j) : _mm512_setzero_si512();
#pragma GCC unroll 16
      for (int i = 0; i < MR; ++i) {
        __m512 si = s;
        if (kRows) {
          acc[i][j] = _mm512_sub_epi32(acc[i][j], _mm512_mullo_epi32(_mm512_set1_epi32(row_zero_point[row + i]), columns));
          si = _mm512_mul_ps(s, _mm512_set1_ps(row_scale[row + i]));
        }
        const __m512 y = _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[i][j]), si, t);
        acc[i][j] = _mm512_castps_si512(_mm512_min_ps(_mm512_max_ps(y, lo), hi));
      }
    }
    store_tile_dwords<MR, NV>(acc, n, c, ldc);
  }
};

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

// acc[i] += rows[i].
template <int MR, int NV>
QGEMM_INLINE void add_rows(__m512i (*acc)[NV], const int32_t* rows) {
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i) {
    const __m512i row = _mm512_set1_epi32(rows[i]);
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) acc[i][j] = _mm512_add_epi32(acc[i][j], row);
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
        __m512i bv[NV];
#pragma GCC unroll 4
        for (int j = 0; j < NV; ++j) {
          bv[j] = weights<NV, kHalf>(b, j);
          __asm__("" : "+v"(bv[j]));
        }
        b += 64 * NV;
#pragma GCC unroll 16
        for (int i = 0; i < MR; ++i) {
          const __m512i av = broadcast4(a[i] + k);
#pragma GCC unroll 4
          for (int j = 0; j < NV; ++j) acc[i][j] = products<NV, kHalf>(acc[i][j], av, bv[j], j);
        }
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
      __m512i bv[NV];
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) {
        bv[j] = weights<NV, kHalf>(b, j);
        __asm__("" : "+v"(bv[j]));
      }
      b += 64 * NV;
#pragma GCC unroll 16
      for (int i = 0; i < MR; ++i) {
        const __m512i av = broadcast4(a[i] + k);
#pragma GCC unroll 4
        for (int j = 0; j < NV; ++j) acc[i][j] = products<NV, kHalf>(acc[i][j], av, bv[j], j);
      }
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

// Merged groups (gemm_args::merged): a pixel's 16 channels, broadcast as they are to every 16 bytes of a register, meet weights
// in an order in which no product is of a zero. Lane 4 q + d has the channels of dword d. Where four groups have 4 columns each,
// it sums column 4 d + q; where two have 8, dwords 2 h and 2 h + 1 are of group h, a column is the sum of two lanes, and a second
// register, x = 1, has the columns from the fourth on.
constexpr int kOrdered = 104;  // starts and taps of all sets, at most, that are put in order first: 7 or 13 KiB

QGEMM_INLINE bool can_order(const gemm_args& g) {
  return g.merged && g.tiles && g.kc == 16 && (g.sets > 1 ? g.sets : 1) * (g.taps + 1) <= kOrdered;
}

struct Lanes {
  alignas(64) int32_t at[16];
};
template <int kGroups>
constexpr int merged_column(int x, int lane) {
  return kGroups == 4 ? lane % 4 * 4 + lane / 4 : lane % 4 / 2 * 8 + 4 * x + lane / 4;
}
template <int kGroups>
constexpr Lanes merged_columns(int x) {
  Lanes l{};
  for (int i = 0; i < 16; ++i) l.at[i] = merged_column<kGroups>(x, i);
  return l;
}
// The same as indices into two registers, of dwords 2 h and 2 h + 1.
template <int kGroups>
constexpr Lanes merged_weights(int x) {
  Lanes l{};
  for (int i = 0; i < 16; ++i) l.at[i] = i % 2 * 16 + merged_column<kGroups>(x, i);
  return l;
}
// Where column i lies, or the first part of its sum, in two registers.
template <int kGroups>
constexpr Lanes merged_sums() {
  Lanes l{};
  for (int i = 0; i < 16; ++i) l.at[i] = kGroups == 4 ? i % 4 * 4 + i / 4 : i % 8 / 4 * 16 + i % 4 * 4 + i / 8 * 2;
  return l;
}

// What the sums of one set begin with, and then its weights, tap by tap.
template <int kGroups>
QGEMM_INLINE void order_merged(const gemm_args& g, const int8_t* b, const int32_t* correction, int8_t* out) {
  constexpr int kRegisters = 4 / kGroups;
  static constexpr Lanes kColumns[2] = {merged_columns<kGroups>(0), merged_columns<kGroups>(1)};
  static constexpr Lanes kWeights[2] = {merged_weights<kGroups>(0), merged_weights<kGroups>(1)};
  for (int x = 0; x < kRegisters; ++x, out += 64)
    _mm512_store_si512(out, _mm512_maskz_permutexvar_epi32(kGroups == 4 ? 0xffff : 0x5555, _mm512_load_si512(kColumns[x].at),
                                                           _mm512_loadu_si512(correction)));
  for (int t = 0; t < g.taps; ++t, b += 256)
    for (int x = 0; x < kRegisters; ++x, out += 64) {
      const __m512i at = _mm512_load_si512(kWeights[x].at);
      const __m512i low = _mm512_permutex2var_epi32(_mm512_loadu_si512(b), at, _mm512_loadu_si512(b + 64));
      const __m512i high = _mm512_permutex2var_epi32(_mm512_loadu_si512(b + 128), at, _mm512_loadu_si512(b + 192));
      _mm512_store_si512(out, _mm512_mask_blend_epi32(0xcccc, low, high));
    }
}

// A tile's sums of one set. b: what order_merged wrote.
template <int MR, int kGroups>
QGEMM_INLINE void multiply_merged(int taps, const int8_t* b, const uint8_t* const* rows, ptrdiff_t offset,
                                  __m512i (&acc)[MR][1]) {
  constexpr int kRegisters = 4 / kGroups;
  __m512i sum[kRegisters][MR];
#pragma GCC unroll 2
  for (int x = 0; x < kRegisters; ++x, b += 64) {
    sum[x][0] = _mm512_load_si512(b);
#pragma GCC unroll 16
    for (int i = 1; i < MR; ++i) sum[x][i] = sum[x][0];
  }
#pragma GCC unroll 1
  for (const int8_t* end = b + taps * ptrdiff_t(64 * kRegisters); b != end; b += 64 * kRegisters, rows += MR) {
    __m512i w[kRegisters];
#pragma GCC unroll 2
    for (int x = 0; x < kRegisters; ++x) {
      w[x] = _mm512_load_si512(b + 64 * x);
      __asm__("" : "+v"(w[x]));
    }
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) {
      const __m512i a = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[i] + offset)));
#pragma GCC unroll 2
      for (int x = 0; x < kRegisters; ++x) {
        sum[x][i] = _mm512_dpbusd_epi32(sum[x][i], a, w[x]);
        __asm__("" : "+v"(sum[x][i]));  // or gcc copies them on every tap
      }
    }
  }
  static constexpr Lanes kSums = merged_sums<kGroups>();
  const __m512i first = _mm512_load_si512(kSums.at), second = _mm512_add_epi32(first, _mm512_set1_epi32(1));
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i) {
    if constexpr (kGroups == 4)
      acc[i][0] = _mm512_permutexvar_epi32(first, sum[0][i]);
    else
      acc[i][0] = _mm512_add_epi32(_mm512_permutex2var_epi32(sum[0][i], first, sum[1][i]),
                                   _mm512_permutex2var_epi32(sum[0][i], second, sum[1][i]));
  }
}

// The end of a tile of MR rows, whichever it is.
template <int MR, int NV>
QGEMM_INLINE void finish_tile(const gemm_args& g, __m512i (&acc)[MR][NV]) {
  const Epilogue& e = *g.ep;
  char* c = static_cast<char*>(g.c);
  const bool bytes = e.out == OutType::u8 || e.out == OutType::s8, narrow = g.n > 16 * (NV - 1);  // narrow: no empty register,
  const bool same_rows = !e.row_zero_point && !e.row_scale;                                       // what drivers always give
  const bool dynamic = e.row_zero_point && e.row_scale && e.out == OutType::f32;
  const bool accumulate = e.out == OutType::f32_accumulate;
  if ((accumulate || same_rows) ? (bytes || narrow) : (dynamic && narrow)) {
    if (e.row_sum) subtract_rows<MR, NV>(acc, e.row_sum + g.row, e.w_zero_point + g.col);
    if (e.row_term) add_rows<MR, NV>(acc, e.row_term + g.row);
    if (bytes) {
      if (e.bounded)
        ToBytes<true>(g).store<MR, NV>(acc, g.row, c);
      else
        ToBytes<false>(g).store<MR, NV>(acc, g.row, c);
    } else if (accumulate) {
      if (e.row_zero_point) subtract_rows<MR, NV>(acc, e.row_zero_point + g.row, e.colsum + g.col);
      add_tile_floats<MR, NV>(e, acc, g.col, g.n, g.c, g.ldc);
    } else if (dynamic) {
      ToFloats<true>(g).store<MR, NV>(acc, g.row, c);
    } else if (e.out == OutType::f32) {
      ToFloats<false>(g).store<MR, NV>(acc, g.row, c);
    } else {
      ToDwords(g).store<MR, NV>(acc, g.row, c);
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

// One tile of g.m = MR rows with any end. rows: [taps][MR].
template <int MR, int NV>
static __attribute__((noinline)) void gemm_tile(const gemm_args& g, const uint8_t* const* rows, ptrdiff_t offset) {
  __m512i acc[MR][NV];
  multiply<MR, NV, true, Taps::table>(g, rows, offset, g.next, acc);
  if (g.rest) multiply_rest<MR, NV>(g, g.rest, acc);
  finish_tile<MR, NV>(g, acc);
}

// The instantiation for g.m rows, 1..MR.
template <int MR, int NV>
QGEMM_INLINE void choose_tile(const gemm_args& g, const uint8_t* const* rows, ptrdiff_t offset) {
  if constexpr (MR > 0) {
    if (g.m == MR)
      gemm_tile<MR, NV>(g, rows, offset);
    else
      choose_tile<MR - 1, NV>(g, rows, offset);
  }
}

// The g.m rows, at most MR, as one tile.
template <int MR, int NV>
QGEMM_INLINE void one_tile(const gemm_args& g) {
  if (g.tiles) {
    choose_tile<MR, NV>(g, g.tiles->rows, g.offset + g.tiles->offset);
    return;
  }
  const uint8_t* rows[MR];
  for (int r = 0; r < g.m; ++r) rows[r] = g.base + r * g.lda;
  if (!g.tap_at) return choose_tile<MR, NV>(g, rows, g.offset);
  const uint8_t* taps[MR * kMaxTapsOfRows];
  for (int t = 0; t < g.taps; ++t)
    for (int r = 0; r < g.m; ++r) taps[t * g.m + r] = rows[r] + g.tap_at[t];
  choose_tile<MR, NV>(g, taps, g.offset);
}

// The first `tiles` tiles of a strip, MR rows each, in one function: behind a call the core works off the end of a tile alone, in
// a loop it does so beside the products of the next. kc is a multiple of 4. Rows: where the rows lie; those of `terms` are a
// matrix and have a row_term, those of `apart` a matrix and several taps, those of `joined` a rest besides.
enum class Rows { matrix, terms, apart, joined, table };
template <int MR, int NV, class End, Rows kRows, bool kHalf>
static __attribute__((noinline)) void gemm_strip(const gemm_args& g, int64_t tiles) {
  const End end(g);
  const uint8_t* line = g.base;
  char* c = static_cast<char*>(g.c);
  int row = g.row;
  for (int64_t i = 0; i < tiles; ++i, row += MR, c += MR * g.ldc) {
    __m512i acc[MR][NV];
#pragma GCC unroll 16
    for (int r = 0; r < MR; ++r) __builtin_prefetch(c + r * g.ldc, 1);
    if constexpr (kRows == Rows::table) {
      multiply<MR, NV, false, Taps::table, kHalf>(g, g.tiles[i].rows, g.offset + g.tiles[i].offset, nullptr, acc);
    } else {
      const uint8_t* rows[MR];
#pragma GCC unroll 16
      for (int r = 0; r < MR; ++r, line += g.lda) rows[r] = line;
      constexpr bool kApart = kRows == Rows::apart || kRows == Rows::joined;
      multiply<MR, NV, false, kApart ? Taps::apart : Taps::one, kHalf>(g, rows, g.offset, nullptr, acc);
      if constexpr (kRows == Rows::joined) multiply_rest<MR, NV, kHalf>(g, g.rest + i * MR * g.rest_bytes, acc);
    }
    // Here the compiler must have the sums in the registers where the loop left them, or it copies them on every step.
#pragma GCC unroll 16
    for (int r = 0; r < MR; ++r)
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) __asm__("" : "+v"(acc[r][j]));
    if constexpr (kRows == Rows::terms) add_rows<MR, NV>(acc, g.ep->row_term + row);
    // A large tile leaves no registers for the constants of its end: behind a pointer that hides what it points to, they are
    // loaded where they are used, and not kept in registers that the sums need.
    const End* terms = &end;
    if (MR * NV > 16) __asm__("" : "+r"(terms));
    if constexpr (kHalf)
      terms->template store<MR, NV, true>(acc, row, c);
    else
      terms->template store<MR, NV>(acc, row, c);
  }
}

// The same for tiles of merged groups, of all sets in turn: they read the same cache lines, and write the same ones.
template <int MR, int kGroups, class End>
static __attribute__((noinline)) void merged_strip(const gemm_args& g, int64_t tiles) {
  alignas(64) int8_t b[kOrdered * (256 / kGroups)];
  const ptrdiff_t set_bytes = (g.taps + 1) * ptrdiff_t(256 / kGroups);
  const int32_t sets = g.sets > 1 ? g.sets : 1;
  for (int32_t s = 0; s < sets; ++s)
    order_merged<kGroups>(g, g.b + s * g.panel_bytes, g.ep->correction + g.col + 16 * s, b + s * set_bytes);
  End end(g);
  const ptrdiff_t columns = static_cast<char*>(gemm_set(g, 1).c) - static_cast<char*>(g.c);
  const uint8_t* ahead = g.ahead;
  const uint8_t* const ahead_end = g.ahead + g.ahead_bytes;
  const ptrdiff_t ahead_lines = (g.ahead_bytes / 64 + tiles * sets - 1) / (tiles * sets);  // beside one set of a tile
  char* c = static_cast<char*>(g.c);
  int row = g.row;
  for (int64_t i = 0; i < tiles; ++i, row += MR, c += MR * g.ldc) {
#pragma GCC unroll 16
    for (int r = 0; r < MR; ++r) __builtin_prefetch(c + r * g.ldc, 1);
    ptrdiff_t offset = g.offset + g.tiles[i].offset;
    for (int32_t s = 0; s < sets; ++s, offset += 16, end.go_on(16)) {
#pragma GCC unroll 1
      for (const uint8_t* end_of_part = ahead + 64 * ahead_lines; ahead < end_of_part && ahead < ahead_end; ahead += 64)
        __builtin_prefetch(ahead, 0, 2);
      __m512i acc[MR][1];
      multiply_merged<MR, kGroups>(g.taps, b + s * set_bytes, g.tiles[i].rows, offset, acc);
#pragma GCC unroll 16
      for (int r = 0; r < MR; ++r) __asm__("" : "+v"(acc[r][0]));
      const End* terms = &end;  // in memory, as in gemm_strip
      if (kGroups == 2) __asm__("" : "+r"(terms) : : "memory");
      terms->template store<MR, 1>(acc, row, c + s * columns);
    }
    end.go_on(-16 * sets);
  }
}

template <int MR, int NV, class End, bool kHalf = false>
QGEMM_INLINE void strip(const gemm_args& g, int64_t tiles) {
  if constexpr (NV == 1) {
    if (g.merged) {
      g.merged == 4 ? merged_strip<MR, 4, End>(g, tiles) : merged_strip<MR, 2, End>(g, tiles);
      return;
    }
  }
  if (g.tiles)
    gemm_strip<MR, NV, End, Rows::table, kHalf>(g, tiles);
  else if (g.rest)
    gemm_strip<MR, NV, End, Rows::joined, kHalf>(g, tiles);
  else if (g.tap_at)
    gemm_strip<MR, NV, End, Rows::apart, kHalf>(g, tiles);
  else if (g.ep->row_term)
    gemm_strip<MR, NV, End, Rows::terms, kHalf>(g, tiles);
  else
    gemm_strip<MR, NV, End, Rows::matrix, kHalf>(g, tiles);
}

// Networks like multiples of 8 channels, and half of a register is up to half of the products: to bytes there are strips that
// leave it out.
template <int MR, int NV, bool kBounded>
QGEMM_INLINE void strip_to_bytes(const gemm_args& g, int64_t tiles) {
  if (g.n <= 16 * NV - 8)
    strip<MR, NV, ToBytes<kBounded>, true>(g, tiles);
  else
    strip<MR, NV, ToBytes<kBounded>>(g, tiles);
}

// Tiles [begin, end) of a strip, one after the other, each with any end.
template <int MR, int NV>
static __attribute__((noinline)) void single_tiles(const gemm_args& g, const GemmCut& cut, int32_t begin, int32_t end) {
  if (g.sets > 1) {
    for (int32_t s = 0; s < g.sets; ++s) single_tiles<MR, NV>(gemm_set(g, s), cut, begin, end);
    return;
  }
  gemm_args one = g;
  for (int32_t i = begin; i < end; ++i) {
    const int32_t first = gemm_tile_begin(cut, i);
    one.m = gemm_tile_begin(cut, i + 1) - first;
    one.tiles = g.tiles ? g.tiles + i : nullptr;
    one.base = g.base + first * g.lda;
    one.rest = g.rest ? g.rest + first * g.rest_bytes : nullptr;
    one.row = g.row + first;
    one.c = static_cast<char*>(g.c) + first * g.ldc;
    one.next = g.next && i < 2 ? g.next + i * second_half(g) : nullptr;
    one_tile<MR, NV>(one);
  }
}

// Tiles [begin, end) of a strip, all of MR rows, if there is a loop for their end.
template <int MR, int NV>
QGEMM_INLINE bool full_tiles(const gemm_args& g, int32_t begin, int32_t end) {
  const Epilogue& e = *g.ep;
  if ((g.kc & 3) != 0 || e.row_sum || (e.row_term && (g.tiles || g.tap_at)) || g.n <= 16 * (NV - 1)) return false;
  gemm_args rest = g;
  if (!can_order(g)) rest.merged = 0;
  rest.tiles = g.tiles ? g.tiles + begin : nullptr;
  rest.base = g.base + begin * MR * g.lda;
  rest.rest = g.rest ? g.rest + begin * MR * g.rest_bytes : nullptr;
  rest.row = g.row + begin * MR;
  rest.c = static_cast<char*>(g.c) + begin * MR * g.ldc;
  const bool same_rows = !e.row_zero_point && !e.row_scale, bytes = e.out == OutType::u8 || e.out == OutType::s8;
  if (same_rows && bytes && e.bounded)
    strip_to_bytes<MR, NV, true>(rest, end - begin);
  else if (same_rows && bytes)
    strip_to_bytes<MR, NV, false>(rest, end - begin);
  else if (same_rows && e.out == OutType::f32)
    strip<MR, NV, ToFloats<false>>(rest, end - begin);
  else if (same_rows && e.out == OutType::s32)
    strip<MR, NV, ToDwords>(rest, end - begin);
  else if (e.row_zero_point && e.row_scale && e.out == OutType::f32)
    strip<MR, NV, ToFloats<true>>(rest, end - begin);
  else
    return false;
  return true;
}

// MR rows over panels p and p + apart, for each p below `apart`; kc is a multiple of 4. Two panels at a time have chains enough,
// and what is read are two streams that go on from panel to panel, which prefetchers follow without a pause.
template <int MR, class End>
static __attribute__((noinline)) void rows_over_panels(const gemm_args& g, int32_t apart) {
  const uint8_t* a[MR];
#pragma GCC unroll 4
  for (int i = 0; i < MR; ++i) a[i] = g.base + i * g.lda + g.offset + g.kc;
  const ptrdiff_t far = apart * g.panel_bytes;
  for (int32_t p = 0; p < apart; ++p) {
    __m512i acc[2][MR][4];
#pragma GCC unroll 2
    for (int s = 0; s < 2; ++s)
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        acc[s][0][j] = _mm512_loadu_si512(g.ep->correction + g.col + static_cast<ptrdiff_t>(p + s * apart) * 64 + 16 * j);
#pragma GCC unroll 4
        for (int i = 1; i < MR; ++i) acc[s][i][j] = acc[s][0][j];
      }
    const int8_t* b = g.b + p * g.panel_bytes;
#pragma GCC unroll 1
    for (ptrdiff_t k = -static_cast<ptrdiff_t>(g.kc); k < 0; k += 4, b += 256) {
      __m512i av[MR];
#pragma GCC unroll 4
      for (int i = 0; i < MR; ++i) av[i] = broadcast4(a[i] + k);
#pragma GCC unroll 2
      for (int s = 0; s < 2; ++s)
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
          __m512i bv = _mm512_loadu_si512(b + s * far + 64 * j);
          if (MR > 1) __asm__("" : "+v"(bv));  // in a register: as an operand from memory it would be loaded again for each row
#pragma GCC unroll 4
          for (int i = 0; i < MR; ++i) acc[s][i][j] = _mm512_dpbusd_epi32(acc[s][i][j], av[i], bv);
        }
    }
    // As in gemm_strip: the sums stay in the registers where the loop left them.
#pragma GCC unroll 2
    for (int s = 0; s < 2; ++s)
#pragma GCC unroll 4
      for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) __asm__("" : "+v"(acc[s][i][j]));
#pragma GCC unroll 2
    for (int s = 0; s < 2; ++s) {
      const gemm_args one = gemm_panel(g, p + s * apart);
      End(one).template store<MR, 4>(acc[s], g.row, static_cast<char*>(one.c));
    }
  }
}

// MR rows over the first panels, an even number of them, if there is a loop for their end: how many panels it was.
template <int MR>
QGEMM_INLINE int32_t panels_by_two(const gemm_args& g) {
  const Epilogue& e = *g.ep;
  if ((g.kc & 3) != 0 || e.row_sum || e.row_term) return 0;
  const bool same_rows = !e.row_zero_point && !e.row_scale, bytes = e.out == OutType::u8 || e.out == OutType::s8;
  const int32_t apart = g.panels / 2;
  if (same_rows && bytes && e.bounded)
    rows_over_panels<MR, ToBytes<true>>(g, apart);
  else if (same_rows && bytes)
    rows_over_panels<MR, ToBytes<false>>(g, apart);
  else if (same_rows && e.out == OutType::f32)
    rows_over_panels<MR, ToFloats<false>>(g, apart);
  else if (same_rows && e.out == OutType::s32)
    rows_over_panels<MR, ToDwords>(g, apart);
  else if (e.row_zero_point && e.row_scale && e.out == OutType::f32)
    rows_over_panels<MR, ToFloats<true>>(g, apart);
  else
    return 0;
  return 2 * apart;
}

// Rows of one tile over panels side by side.
template <int MR>
QGEMM_INLINE void tile_over_panels(const gemm_args& g) {
  int32_t done = 0;
  if (g.m == 1)
    done = panels_by_two<1>(g);
  else if (g.m == 2)
    done = panels_by_two<2>(g);
  else if (g.m == 3)
    done = panels_by_two<3>(g);
  for (int32_t p = done; p < g.panels; ++p) one_tile<MR, 4>(gemm_panel(g, p));
}

// The tiles of one panel, or of the sets that one strip takes. Those that prefetch, the ragged last ones and rare ends are called
// one by one.
template <int MR, int NV>
QGEMM_INLINE void all_tiles(const gemm_args& g) {
  if (g.tile_rows == 0 || g.m <= g.tile_rows) {
    one_tile<MR, NV>(g);
    return;
  }
  const GemmCut cut = gemm_cut(g.m, g.tile_rows);
  int32_t done = 0;
  if (g.next) {
    done = 2;
    single_tiles<MR, NV>(g, cut, 0, done);
  }
  if (g.tile_rows == MR && cut.full > done && full_tiles<MR, NV>(g, done, cut.full)) done = cut.full;
  single_tiles<MR, NV>(g, cut, done, cut.tiles);
}

// Every kernel of this family: tiles of at most MR rows of NV registers.
template <int MR, int NV>
QGEMM_INLINE void gemm(const gemm_args& g) {
  if constexpr (NV == 4) {
    if (g.panels > 1) {
      tile_over_panels<MR>(g);
      return;
    }
  }
  if constexpr (NV == 1) {
    if (g.sets > 1 && (!can_order(g) || g.tile_rows == 0 || g.m <= g.tile_rows)) {
      for (int32_t i = 0; i < g.sets; ++i) all_tiles<MR, NV>(gemm_set(g, i));
      return;
    }
  }
  all_tiles<MR, NV>(g);
}

}  // namespace avx512vnni
}  // namespace qgemm
