// Averages of any windows, 64 channels a step. Two bytes of a channel are brought side by side by unpacks, and one vpmaddubsw
// adds them to 16 bits; the unpacks' order is what the packs at the end undo. Included in the AVX-512 files of average_pool only.
#pragma once
#include "kernels/average_columns__avx512vnni.h"
#include "kernels/average_image__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {
namespace {

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
    for (int b = 0; b < kBlocks; ++b) store(b, f.totals(total[b], less, scale));
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

// Table: the end by thresholds, or void.
template <class Table>
QGEMM_INLINE void average_pool(const average_pool_args& g) {
  const Finish f(g);
  if (g.dilation == 1 && g.height >= 1 && g.height <= g.taps) {
    if (g.taps == 2 && g.stride == 2) return kept_columns<2, 2, Table>(g, f);
    if (g.taps == 3 && g.stride == 2) return kept_columns<3, 2, Table>(g, f);
    if (g.taps == 3 && g.stride == 1) return kept_columns<3, 1, Table>(g, f);
  }
  if (average_image(g, f)) return;
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
