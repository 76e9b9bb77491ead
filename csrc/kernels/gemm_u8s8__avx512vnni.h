// The AVX-512 VNNI GEMM: strips of tiles, products from registers into registers, ends from registers.
#pragma once
#include "kernels/gemm_ends__avx512vnni.h"
#include "kernels/gemm_merged__avx512vnni.h"
#include "kernels/gemm_products__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {

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
