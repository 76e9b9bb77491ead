// Maxima of windows. Along a row the maximum of each column is taken once and kept in registers for every window that holds the
// column, of up to 256 channels at once, so that lines follow each other. Pixels of less than a register are taken as bytes one
// behind the other, where windows touch.
#include "kernels/pixels__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {
namespace {

// Registers of 64, 32 or 16 bytes: a smaller one crosses fewer lines where pixels have few channels.
struct Bytes64 {
  using V = __m512i;
  static QGEMM_MEMBER V zero() { return _mm512_setzero_si512(); }
  static QGEMM_MEMBER V load(const uint8_t* p, __mmask64 k) { return _mm512_maskz_loadu_epi8(k, p); }
  static QGEMM_MEMBER V larger(V a, V b) { return _mm512_max_epu8(a, b); }
  static QGEMM_MEMBER void store(uint8_t* p, __mmask64 k, V v) { _mm512_mask_storeu_epi8(p, k, v); }
};
struct Bytes32 {
  using V = __m256i;
  static QGEMM_MEMBER V zero() { return _mm256_setzero_si256(); }
  static QGEMM_MEMBER V load(const uint8_t* p, __mmask64 k) { return _mm256_maskz_loadu_epi8(static_cast<__mmask32>(k), p); }
  static QGEMM_MEMBER V larger(V a, V b) { return _mm256_max_epu8(a, b); }
  static QGEMM_MEMBER void store(uint8_t* p, __mmask64 k, V v) { _mm256_mask_storeu_epi8(p, static_cast<__mmask32>(k), v); }
};
struct Bytes16 {
  using V = __m128i;
  static QGEMM_MEMBER V zero() { return _mm_setzero_si128(); }
  static QGEMM_MEMBER V load(const uint8_t* p, __mmask64 k) { return _mm_maskz_loadu_epi8(static_cast<__mmask16>(k), p); }
  static QGEMM_MEMBER V larger(V a, V b) { return _mm_max_epu8(a, b); }
  static QGEMM_MEMBER void store(uint8_t* p, __mmask64 k, V v) { _mm_mask_storeu_epi8(p, static_cast<__mmask16>(k), v); }
};

// Channels [c, c + 64) of a row's pixels, of which mask k names those that are there: any window.
void any_pixels(const max_pool_args& g, const uint8_t* const* rows, uint8_t* out, ptrdiff_t c, __mmask64 k) {
  for (int64_t x = 0; x < g.pixels; ++x) {
    __m512i m = _mm512_setzero_si512();
    for (int t = 0; t < g.taps; ++t) {
      const int64_t at = g.first + x * g.stride + t * g.dilation;
      if (at < 0 || at >= g.columns) continue;
      for (int r = 0; r < g.height; ++r) m = _mm512_max_epu8(m, _mm512_maskz_loadu_epi8(k, rows[r] + at * g.pixel + c));
    }
    _mm512_mask_storeu_epi8(out + x * g.ldo + c, k, m);
  }
}

// Row r of the window's at output row i. A row twice changes no maximum.
QGEMM_INLINE const uint8_t* row_of(const max_pool_args& g, int i, int r) { return g.rows[i * g.height + (r < g.height ? r : 0)]; }

// The same of kBlocks registers, the last masked by k, where windows are up to kTaps rows by kTaps columns that touch.
template <class Bytes, int kTaps, int kStride, int kBlocks>
void kept_columns(const max_pool_args& given, const Inside& inside, ptrdiff_t c, __mmask64 k) {
  constexpr int kKept = kTaps - kStride;
  const max_pool_args g = given;  // in registers: bytes that are stored might alias what is behind a reference
  const uint8_t* rows[kTaps];
  int64_t column;  // the window's first
  typename Bytes::V w[kTaps][kBlocks];
  const auto mask = [&](int b) __attribute__((always_inline)) { return b == kBlocks - 1 ? k : ~0ull; };
  // Column t of the window. Those outside are smaller than any.
  const auto load = [&](int t, bool checked) __attribute__((always_inline)) {
    const int64_t at = column + t;
    const bool there = !checked || (at >= 0 && at < g.columns);
#pragma GCC unroll 4
    for (int b = 0; b < kBlocks; ++b) {
      w[t][b] = Bytes::zero();
      if (!there) continue;
      w[t][b] = Bytes::load(rows[0] + at * g.pixel + 64 * b, mask(b));
#pragma GCC unroll 5
      for (int r = 1; r < kTaps; ++r) w[t][b] = Bytes::larger(w[t][b], Bytes::load(rows[r] + at * g.pixel + 64 * b, mask(b)));
    }
  };
  uint8_t* out;
  const auto some = [&](int64_t count, bool checked) __attribute__((always_inline)) {
    for (; count > 0; --count, column += kStride, out += g.ldo) {
#pragma GCC unroll 5
      for (int t = kKept; t < kTaps; ++t) load(t, checked);
#pragma GCC unroll 4
      for (int b = 0; b < kBlocks; ++b) {
        auto m = w[0][b];
#pragma GCC unroll 5
        for (int t = 1; t < kTaps; ++t) m = Bytes::larger(m, w[t][b]);
        Bytes::store(out + 64 * b, mask(b), m);
#pragma GCC unroll 5
        for (int t = 0; t < kKept; ++t) w[t][b] = w[t + kStride][b];
      }
    }
  };
  for (int i = 0; i < g.outputs; ++i) {
#pragma GCC unroll 5
    for (int r = 0; r < kTaps; ++r) rows[r] = row_of(g, i, r) + c;
    column = g.first;
    out = g.out + i * g.ldr + c;
#pragma GCC unroll 5
    for (int t = 0; t < kKept; ++t) load(t, true);
    some(inside.lo, true);
    some(inside.hi - inside.lo, false);
    some(g.pixels - inside.hi, true);
  }
}

template <int kTaps, int kStride>
void kept_columns(const max_pool_args& g) {
  const Inside inside = inside_of(g, kStride);
  if (g.channels <= 16) return kept_columns<Bytes16, kTaps, kStride, 1>(g, inside, 0, lanes64(g.channels));
  if (g.channels <= 32) return kept_columns<Bytes32, kTaps, kStride, 1>(g, inside, 0, lanes64(g.channels));
  for (ptrdiff_t c = 0; c < g.channels; c += 256) {
    const int left = g.channels - c < 256 ? static_cast<int>(g.channels - c) : 256, blocks = (left + 63) / 64;
    const __mmask64 k = lanes64(left - 64 * (blocks - 1));
    if (blocks == 1)
      kept_columns<Bytes64, kTaps, kStride, 1>(g, inside, c, k);
    else if (blocks == 2)
      kept_columns<Bytes64, kTaps, kStride, 2>(g, inside, c, k);
    else if (blocks == 3)
      kept_columns<Bytes64, kTaps, kStride, 3>(g, inside, c, k);
    else
      kept_columns<Bytes64, kTaps, kStride, 4>(g, inside, c, k);
  }
}

// The same where pixels of less than a register follow each other, in the rows and in `out`, and the stride is 1: a line is one
// array of bytes. Registers of the maxima of its columns pass through kTaps - 1 steps, each of which takes the larger of every
// byte and the one a pixel after it (for which the next register must be there, so the result is that of the register before) or
// a pixel ahead of it. kBefore of a window's columns lie ahead of the one that has the result's place. False where the line is
// too short for that, or its length too far from that of the results.
template <int kTaps, int kBefore>
bool whole_lines(const max_pool_args& given) {
  constexpr int kAfter = kTaps - 1 - kBefore, kMostTail = 4;
  const max_pool_args g = given;
  const ptrdiff_t line = g.columns * g.pixel, end = g.pixels * g.pixel;
  // Registers of the line that are whole and after which a whole register of results is known; what is left of both.
  const ptrdiff_t fit = end / 64 + kAfter, whole = fit < line / 64 ? fit : line / 64, tail = (end + 63) / 64 + kAfter - whole;
  if (whole < kAfter || tail > kMostTail) return false;
  __mmask64 loaded[kMostTail], stored[kMostTail];
  const auto first_bytes = [](ptrdiff_t n) { return lanes64(n < 0 ? 0 : n < 64 ? static_cast<int>(n) : 64); };
  for (ptrdiff_t t = 0; t < tail; ++t) {
    loaded[t] = first_bytes(line - 64 * (whole + t));
    stored[t] = first_bytes(end - 64 * (whole + t - kAfter));
  }
  const __m512i iota = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const __m512i after = _mm512_add_epi32(iota, _mm512_set1_epi32(g.channels / 4)),
                before = _mm512_add_epi32(iota, _mm512_set1_epi32(16 - g.channels / 4));
  for (int y = 0; y < g.outputs; ++y) {
    const uint8_t* rows[kTaps];
#pragma GCC unroll 5
    for (int r = 0; r < kTaps; ++r) rows[r] = row_of(g, y, r);
    const auto load = [&](ptrdiff_t i, __mmask64 k) __attribute__((always_inline)) {
      __m512i v = _mm512_maskz_loadu_epi8(k, rows[0] + 64 * i);
#pragma GCC unroll 5
      for (int r = 1; r < kTaps; ++r) v = _mm512_max_epu8(v, _mm512_maskz_loadu_epi8(k, rows[r] + 64 * i));
      return v;
    };
    __m512i last[kTaps - 1];
#pragma GCC unroll 4
    for (int s = 0; s < kTaps - 1; ++s) last[s] = _mm512_setzero_si512();
    const auto windows = [&](__m512i v) __attribute__((always_inline)) {
#pragma GCC unroll 4
      for (int s = 0; s < kTaps - 1; ++s) {
        const __m512i moved = _mm512_permutex2var_epi32(last[s], s < kAfter ? after : before, v);
        const __m512i m = _mm512_max_epu8(s < kAfter ? last[s] : v, moved);
        last[s] = v;
        v = m;
      }
      return v;
    };
    uint8_t* const out = g.out + y * g.ldr - 64 * kAfter;
    ptrdiff_t i = 0;
#pragma GCC unroll 2
    for (; i < kAfter; ++i) windows(load(i, ~0ull));
    for (; i < whole; ++i) _mm512_storeu_si512(out + 64 * i, windows(load(i, ~0ull)));
    for (ptrdiff_t t = 0; t < tail; ++t, ++i) _mm512_mask_storeu_epi8(out + 64 * i, stored[t], windows(load(i, loaded[t])));
  }
  return true;
}

}  // namespace

void max_pool_u8_1x64(const max_pool_args& g) {
  const bool touch = g.dilation == 1 && g.height >= 1 && g.height <= g.taps;
  // 4 bytes are what moves from register to register.
  const bool dense = touch && g.stride == 1 && g.channels > 0 && g.channels < 64 && g.channels % 4 == 0 &&
                     g.pixel == g.channels && g.ldo == g.channels;
  if (dense && g.taps == 3 && g.first == 0 && whole_lines<3, 0>(g)) return;
  if (dense && g.taps == 3 && g.first == -1 && whole_lines<3, 1>(g)) return;
  if (dense && g.taps == 5 && g.first == -2 && whole_lines<5, 2>(g)) return;
  if (touch && g.taps == 2 && g.stride == 2) return kept_columns<2, 2>(g);
  if (touch && g.taps == 3 && g.stride == 2) return kept_columns<3, 2>(g);
  if (touch && g.taps == 3 && g.stride == 1) return kept_columns<3, 1>(g);
  if (touch && g.taps == 5 && g.stride == 1) return kept_columns<5, 1>(g);
  for (int i = 0; i < g.outputs; ++i)
    for (ptrdiff_t c = 0; c < g.channels; c += 64)
      any_pixels(g, g.rows + i * g.height, g.out + i * g.ldr, c,
                 lanes64(g.channels - c < 64 ? static_cast<int>(g.channels - c) : 64));
}

}  // namespace avx512vnni
}  // namespace qgemm
