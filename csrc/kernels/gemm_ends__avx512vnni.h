// What the ends of the AVX-512 GEMM's tiles do: accumulators to u8 and s8, to int32, to fp32, with terms of rows and without.
#pragma once
#include "kernels/epilogue__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {

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

}  // namespace avx512vnni
}  // namespace qgemm
