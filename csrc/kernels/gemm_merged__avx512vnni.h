// Merged groups (gemm_args::merged): a pixel's 16 channels, broadcast as they are to every 16 bytes of a register, meet weights
// in an order in which no product is of a zero. Lane 4 q + d has the channels of dword d. Where four groups have 4 columns each,
// it sums column 4 d + q; where two have 8, dwords 2 h and 2 h + 1 are of group h, a column is the sum of two lanes, and a second
// register, x = 1, has the columns from the fourth on.
#pragma once
#include "kernels/epilogue__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {

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

// The first `tiles` tiles of a strip of merged groups, MR rows each, for all sets in turn: they read the same cache lines, and
// write the same ones.
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

}  // namespace avx512vnni
}  // namespace qgemm
