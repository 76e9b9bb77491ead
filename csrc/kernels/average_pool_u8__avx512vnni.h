// Averages of windows, 64 channels a step. Two bytes of a channel are brought side by side by unpacks, and one vpmaddubsw adds
// them to 16 bits; the unpacks' order is what the packs at the end undo. Where windows overlap, the sums of columns are kept.
// Included in the files of average_pool of AVX-512 only.
#pragma once
#include <type_traits>

#include "kernels/average_ends__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {
namespace {

constexpr int kMostWords = 256;  // bytes that 16 bits hold the sum of: 257, but pairs are what is added

// kBlocks registers of channels from c on, the last masked by k, of pixels [x, end), any of whose taps may lie outside. kWords:
// 16 bits hold every sum.
template <int kBlocks, bool kWords>
__attribute__((noinline)) void any_pixels(const average_pool_args& g, const Finish& f, int64_t x, int64_t end, ptrdiff_t c,
                                          __mmask64 k) {
  const __m512i zero = _mm512_setzero_si512();
  for (; x < end; ++x) {
    int64_t column = g.first + x * g.stride;
    int from = 0, to = g.taps;
    while (from < to && column + from * g.dilation < 0) ++from;
    while (from < to && column + (to - 1) * g.dilation >= g.columns) --to;
    const int covered = to - from;
    const ptrdiff_t first = (column + from * g.dilation) * g.pixel + c, step = g.dilation * g.pixel;
    __m512i total[kBlocks][4] = {};  // in the order of unpacks
    Sums s[kBlocks];
#pragma GCC unroll 8
    for (int b = 0; b < kBlocks; ++b) s[b] = {zero, zero};
    const auto flush = [&]() __attribute__((always_inline)) {
#pragma GCC unroll 4
      for (int b = 0; b < kBlocks; ++b) {
        total[b][0] = _mm512_add_epi32(total[b][0], _mm512_unpacklo_epi16(s[b].lo, zero));
        total[b][1] = _mm512_add_epi32(total[b][1], _mm512_unpackhi_epi16(s[b].lo, zero));
        total[b][2] = _mm512_add_epi32(total[b][2], _mm512_unpacklo_epi16(s[b].hi, zero));
        total[b][3] = _mm512_add_epi32(total[b][3], _mm512_unpackhi_epi16(s[b].hi, zero));
        s[b] = {zero, zero};
      }
    };
    const auto load = [&](const uint8_t* p, int b) __attribute__((always_inline)) {
      return b == kBlocks - 1 ? _mm512_maskz_loadu_epi8(k, p + 64 * b) : _mm512_loadu_si512(p + 64 * b);
    };
    // Rows of which all columns are read, one behind the other, are one.
    int lines = g.height, run = covered;
    if (covered == g.columns && g.dilation == 1) {
      const ptrdiff_t row = g.columns * g.pixel;
      int follow = 1;
      while (follow < lines && g.rows[follow] == g.rows[0] + follow * row) ++follow;
      if (follow == lines) run *= lines, lines = 1;
    }
    int words = 0;  // bytes in the sums of 16 bits
    for (int r = 0; r < lines; ++r) {
      const uint8_t* p = g.rows[r] + first;
      for (int t = 0; t < run;) {
        int stop = run;
        if (!kWords) {
          if (words >= kMostWords) flush(), words = 0;
          if (run - t > kMostWords - words) stop = t + kMostWords - words;
          words += stop - t;
        }
        for (; t + 2 <= stop; t += 2, p += 2 * step)
#pragma GCC unroll 8
          for (int b = 0; b < kBlocks; ++b) s[b] = s[b] + pair(load(p, b), load(p + step, b));
        for (; t < stop; ++t, p += step)
#pragma GCC unroll 8
          for (int b = 0; b < kBlocks; ++b) s[b] = s[b] + single(load(p, b));
      }
    }
    const int64_t count = int64_t(g.height) * covered;
    const __m512 scale = _mm512_set1_ps(g.scale[covered]);
    uint8_t* const out = g.out + x * g.ldo + c;
    const auto store = [&](int b, __m512i q) __attribute__((always_inline)) {
      _mm512_mask_storeu_epi8(out + 64 * b, b == kBlocks - 1 ? k : ~0ull, q);
    };
    if constexpr (kWords) {
      const __m512 zeros = Finish::zero_of(count * g.x_zero_point);
#pragma GCC unroll 8
      for (int b = 0; b < kBlocks; ++b) store(b, f.words<false>(s[b], zeros, scale));
      continue;
    }
    flush();
    const __m512i less = _mm512_set1_epi32(static_cast<int>(count * g.x_zero_point));
#pragma GCC unroll 4
    for (int b = 0; b < kBlocks; ++b) {
      __m512i q[4];
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) q[j] = f.grid<false>(_mm512_cvtepi32_ps(_mm512_sub_epi32(total[b][j], less)), scale);
      store(b, f.bytes(q[0], q[1], q[2], q[3]));
    }
  }
}

// Channels [c, c + lanes) of all pixels, up to 256 of them, or 512 where 16 bits hold every sum.
template <bool kWords>
void any_channels(const average_pool_args& g, const Finish& f, ptrdiff_t c, int lanes) {
  const int blocks = (lanes + 63) / 64;
  const __mmask64 k = lanes64(lanes - 64 * (blocks - 1));
  switch (blocks) {
    case 1:
      return any_pixels<1, kWords>(g, f, 0, g.pixels, c, k);
    case 2:
      return any_pixels<2, kWords>(g, f, 0, g.pixels, c, k);
    case 3:
      return any_pixels<3, kWords>(g, f, 0, g.pixels, c, k);
    case 4:
      return any_pixels<4, kWords>(g, f, 0, g.pixels, c, k);
    default:
      return any_pixels<8, kWords>(g, f, 0, g.pixels, c, k);
  }
}

// The sums of kHeight rows at byte `at`.
template <int kHeight, int kPixels>
QGEMM_INLINE Sums column(const uint8_t* const* rows, ptrdiff_t at, ptrdiff_t apart, __mmask64 k) {
  const auto load = [&](int r) __attribute__((always_inline)) { return load_pixels<kPixels>(rows[r] + at, apart, k); };
  if (kHeight == 1) return single(load(0));
  const Sums two = pair(load(0), load(kHeight > 1 ? 1 : 0));
  return kHeight == 2 ? two : two + single(load(kHeight > 2 ? 2 : 0));
}
// The same, as the end wants it.
template <int kHeight, int kPixels, class End>
QGEMM_INLINE Sums column(const End& end, const uint8_t* const* rows, ptrdiff_t at, ptrdiff_t apart, __mmask64 k) {
  if constexpr (!End::kWeighted) {
    return column<kHeight, kPixels>(rows, at, apart, k);
  } else {
    const auto load = [&](int r) __attribute__((always_inline)) { return load_pixels<kPixels>(rows[r] + at, apart, k); };
    if (kHeight == 1) return single(load(0), end.weight);
    const Sums two = pair(load(0), load(kHeight > 1 ? 1 : 0), end.weight);
    return kHeight == 2 ? two : two + single(load(kHeight > 2 ? 2 : 0), end.weight);
  }
}

// Channels [c, c + 64) of pixels [x, end) at the ends of a row, some of whose taps lie outside.
template <int kHeight, int kTaps, bool kBounded>
__attribute__((noinline)) void edge_pixels(const average_pool_args& g, const Finish& f, int64_t x, int64_t end, ptrdiff_t c,
                                           __mmask64 k) {
  for (; x < end; ++x) {
    const int64_t at = g.first + x * g.stride;
    int from = 0, to = kTaps;
    while (from < to && at + from < 0) ++from;
    while (from < to && at + to > g.columns) --to;
    const __m512 zero = Finish::zero_of(int64_t(kHeight) * (to - from) * g.x_zero_point),
                 scale = _mm512_set1_ps(g.scale[to - from]);
    for (int i = 0; i < g.outputs; ++i) {
      Sums s = {_mm512_setzero_si512(), _mm512_setzero_si512()};
      for (int t = from; t < to; ++t) s = s + column<kHeight, 1>(g.rows + i * kHeight, (at + t) * g.pixel + c, 0, k);
      _mm512_mask_storeu_epi8(g.out + i * g.ldr + x * g.ldo + c, k, f.words<kBounded>(s, zero, scale));
    }
  }
}

// Of each row kPixels runs of `count` pixels, one behind the other from pixel x on, where all taps lie inside, side by side.
template <int kHeight, int kTaps, int kStride, int kPixels, class End>
__attribute__((noinline)) void inner_run(const average_pool_args& g, const End& given, int64_t x, int64_t count, ptrdiff_t c,
                                         __mmask64 k) {
  constexpr int kKept = kTaps - kStride;
  const End end = given;  // in registers: bytes that are stored might alias what is behind a reference
  const ptrdiff_t pixel = g.pixel, ldo = g.ldo;
  const ptrdiff_t apart = count * kStride * pixel, out_apart = count * g.ldo;
  for (int i = 0; i < g.outputs; ++i) {
    const uint8_t* rows[kHeight];
    for (int r = 0; r < kHeight; ++r) rows[r] = g.rows[i * kHeight + r] + (g.first + x * g.stride) * pixel + c;
    uint8_t* out = g.out + i * g.ldr + x * g.ldo + c;
    Sums w[kTaps];
#pragma GCC unroll 3
    for (int t = 0; t < kKept; ++t) w[t] = column<kHeight, kPixels>(end, rows, t * pixel, apart, k);
    for (uint8_t* const stop = out + out_apart; out != stop; out += ldo) {
#pragma GCC unroll 3
      for (int t = kKept; t < kTaps; ++t) w[t] = column<kHeight, kPixels>(end, rows, t * pixel, apart, k);
#pragma GCC unroll 3
      for (int r = 0; r < kHeight; ++r) rows[r] += kStride * pixel;
      Sums s = w[0];
#pragma GCC unroll 3
      for (int t = 1; t < kTaps; ++t) s = s + w[t];
      store_pixels<kPixels>(out, out_apart, k, end(s));
#pragma GCC unroll 3
      for (int t = 0; t < kKept; ++t) w[t] = w[t + kStride];
    }
  }
}

template <int kHeight, int kTaps, int kStride, class End>
void inner_pixels_to(const average_pool_args& g, const Finish& f, const Inside& inside, ptrdiff_t c, int lanes) {
  const End end(g, f);
  const __mmask64 k = lanes64(lanes);
  int64_t x = inside.lo;
  if (lanes <= 32 && inside.hi - x >= 4) {
    const int64_t count = (inside.hi - x) / 2;
    inner_run<kHeight, kTaps, kStride, 2>(g, end, x, count, c, k);
    x += 2 * count;
  }
  inner_run<kHeight, kTaps, kStride, 1>(g, end, x, inside.hi - x, c, k);
}

template <int kHeight, int kTaps, int kStride, class Table>
void inner_pixels(const average_pool_args& g, const Finish& f, const Inside& inside, ptrdiff_t c, int lanes) {
  if (inside.lo == inside.hi) return;
  if constexpr (!std::is_void_v<Table>)
    if (g.words && g.words->tabled) return inner_pixels_to<kHeight, kTaps, kStride, Table>(g, f, inside, c, lanes);
  if (g.words && !g.words->tabled)
    g.words->offset < 0 ? inner_pixels_to<kHeight, kTaps, kStride, Words<true>>(g, f, inside, c, lanes)
                        : inner_pixels_to<kHeight, kTaps, kStride, Words<false>>(g, f, inside, c, lanes);
  else if (g.factor != 0)
    inner_pixels_to<kHeight, kTaps, kStride, OneFactor>(g, f, inside, c, lanes);
  else if (g.bounded)
    inner_pixels_to<kHeight, kTaps, kStride, TwoProducts<true>>(g, f, inside, c, lanes);
  else
    inner_pixels_to<kHeight, kTaps, kStride, TwoProducts<false>>(g, f, inside, c, lanes);
}

template <int kHeight, int kTaps, int kStride, class Table>
void kept_columns(const average_pool_args& g, const Finish& f, const Inside& inside, ptrdiff_t c, int lanes) {
  const auto edges = g.bounded ? edge_pixels<kHeight, kTaps, true> : edge_pixels<kHeight, kTaps, false>;
  if (inside.lo > 0) edges(g, f, 0, inside.lo, c, lanes64(lanes));
  inner_pixels<kHeight, kTaps, kStride, Table>(g, f, inside, c, lanes);
  if (inside.hi < g.pixels) edges(g, f, inside.hi, g.pixels, c, lanes64(lanes));
}

template <int kTaps, int kStride, class Table>
void kept_columns(const average_pool_args& g, const Finish& f) {
  const Inside inside = inside_of(g, kStride);
  for (ptrdiff_t c = 0; c < g.channels; c += 64) {
    const int lanes = g.channels - c < 64 ? static_cast<int>(g.channels - c) : 64;
    if (g.height == kTaps)
      kept_columns<kTaps, kTaps, kStride, Table>(g, f, inside, c, lanes);
    else if (g.height == 1)
      kept_columns<1, kTaps, kStride, Table>(g, f, inside, c, lanes);
    else
      kept_columns<2, kTaps, kStride, Table>(g, f, inside, c, lanes);
  }
}

// Table: the end by thresholds, or void.
template <class Table>
QGEMM_INLINE void average_pool(const average_pool_args& g) {
  const Finish f(g);
  if (g.dilation == 1 && g.height >= 1 && g.height <= g.taps) {
    if (g.taps == 2 && g.stride == 2) return kept_columns<2, 2, Table>(g, f);
    if (g.taps == 3 && g.stride == 2) return kept_columns<3, 2, Table>(g, f);
    if (g.taps == 3 && g.stride == 1) return kept_columns<3, 1, Table>(g, f);
  }
  // Windows whose columns are not kept read all channels of a pixel, up to 256 or 512, at once: lines that follow each other.
  const bool words = g.height * (g.taps < g.columns ? g.taps : g.columns) <= kMostWords;
  average_pool_args row = g;
  for (int i = 0; i < g.outputs; ++i, row.rows += g.height, row.out += g.ldr)
    for (ptrdiff_t c = 0; c < g.channels;) {
      const ptrdiff_t left = g.channels - c;
      const int lanes = words && left >= 512 ? 512 : left < 256 ? static_cast<int>(left) : 256;
      words ? any_channels<true>(row, f, c, lanes) : any_channels<false>(row, f, c, lanes);
      c += lanes;
    }
}

}  // namespace
}  // namespace avx512vnni
}  // namespace qgemm
