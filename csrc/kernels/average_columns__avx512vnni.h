// Averages of windows of up to three rows and columns that touch: sums of columns are kept where windows overlap, and sums of
// rows are shared by outputs below each other. Included in the AVX-512 files of average_pool only.
#pragma once
#include "kernels/average_ends__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {
namespace {

// What a register holds: 64 channels of a pixel, less (those of mask k), or up to 32 of two pixels, which lie `apart` bytes
// apart. A mask costs an instruction a load. kShared: there are address registers left for two output rows.
struct Whole {
  static constexpr bool kShared = true;
  QGEMM_MEMBER Whole(__mmask64, ptrdiff_t, ptrdiff_t) {}
  QGEMM_MEMBER __m512i load(const uint8_t* p) const { return _mm512_loadu_si512(p); }
  QGEMM_MEMBER void store(uint8_t* p, __m512i v) const { _mm512_storeu_si512(p, v); }
};
struct Part {
  static constexpr bool kShared = true;
  QGEMM_MEMBER Part(__mmask64 mask, ptrdiff_t, ptrdiff_t) : k(mask) {}
  QGEMM_MEMBER __m512i load(const uint8_t* p) const { return _mm512_maskz_loadu_epi8(k, p); }
  QGEMM_MEMBER void store(uint8_t* p, __m512i v) const { _mm512_mask_storeu_epi8(p, k, v); }
  __mmask64 k;
};
struct Two {
  static constexpr bool kShared = false;
  QGEMM_MEMBER Two(__mmask64 mask, ptrdiff_t in, ptrdiff_t out) : k(static_cast<__mmask32>(mask)), apart(in), out_apart(out) {}
  QGEMM_MEMBER __m512i load(const uint8_t* p) const {
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_maskz_loadu_epi8(k, p)), _mm256_maskz_loadu_epi8(k, p + apart), 1);
  }
  QGEMM_MEMBER void store(uint8_t* p, __m512i v) const {
    _mm256_mask_storeu_epi8(p, k, _mm512_castsi512_si256(v));
    _mm256_mask_storeu_epi8(p + out_apart, k, _mm512_extracti64x4_epi64(v, 1));
  }
  __mmask32 k;
  ptrdiff_t apart, out_apart;
};
// Where 32 bytes can be read from each pixel on.
struct TwoWithin : Two {
  using Two::Two;
  QGEMM_MEMBER __m512i load(const uint8_t* p) const {
    const auto one = [](const uint8_t* q) __attribute__((always_inline)) {
      return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q));
    };
    return _mm512_inserti64x4(_mm512_castsi256_si512(one(p)), one(p + apart), 1);
  }
};

// The sums of a column of kHeight rows at byte `at`, as the end wants them. kDown: of two outputs, so many rows apart.
template <int kHeight, int kDown, class End, class Lanes>
QGEMM_INLINE void column(const End& end, const Lanes& lanes, const uint8_t* const* rows, ptrdiff_t at, Sums* v) {
  static_assert(kDown == 0 || kHeight == 3, "");
  const auto two = [&](int r) __attribute__((always_inline)) {
    return pair(lanes.load(rows[r] + at), lanes.load(rows[r + 1] + at), end.weight);
  };
  const auto one = [&](int r) __attribute__((always_inline)) {
    const __m512i a = lanes.load(rows[r] + at);
    return End::kWeighted ? single(a, end.weight) : single(a);
  };
  if constexpr (kDown == 1) {
    const __m512i first = _mm512_and_si512(end.weight, _mm512_set1_epi16(0xff)), last = _mm512_slli_epi16(end.weight, 8);
    const __m512i a = lanes.load(rows[0] + at), b = lanes.load(rows[3] + at);
    const __m512i lo = _mm512_unpacklo_epi8(a, b), hi = _mm512_unpackhi_epi8(a, b);
    const Sums shared = two(1);
    v[0] = shared + Sums{_mm512_maddubs_epi16(lo, first), _mm512_maddubs_epi16(hi, first)};
    v[1] = shared + Sums{_mm512_maddubs_epi16(lo, last), _mm512_maddubs_epi16(hi, last)};
  } else if constexpr (kDown == 2) {
    const Sums shared = one(2);
    v[0] = two(0) + shared;
    v[1] = shared + two(3);
  } else if constexpr (kHeight == 1) {
    v[0] = one(0);
  } else {
    v[0] = two(0);
    if (kHeight == 3) v[0] = v[0] + one(2);
  }
}

// The rows of one window or of two, `at` bytes further on.
template <int kHeight, int kDown>
QGEMM_INLINE void rows_of(const uint8_t* const* window, ptrdiff_t at, const uint8_t** rows) {
#pragma GCC unroll 5
  for (int r = 0; r < kHeight + kDown; ++r) rows[r] = (r < kHeight ? window[r] : window[kHeight + r - kDown]) + at;
}

// f(kDown, rows of the window, output row) for all output rows: if kShared, two that share rows of their windows, kStride apart,
// are taken together.
template <int kHeight, int kStride, bool kShared, class F>
QGEMM_INLINE void each_outputs(const average_pool_args& g, F&& f) {
  for (int i = 0; i < g.outputs; ++i) {
    const uint8_t* const* const window = g.rows + i * kHeight;
    if constexpr (kHeight == 3 && kShared) {
      const auto shares = [&](int r) { return window[kHeight + r - kStride] == window[r]; };
      if (i + 1 < g.outputs && shares(2) && (kStride == 2 || shares(1))) {
        f(std::integral_constant<int, kStride>{}, window, i++);
        continue;
      }
    }
    f(std::integral_constant<int, 0>{}, window, i);
  }
}

// Channels of pixel x of all rows, at an end of them, where only taps [from, to) lie inside.
template <int kHeight, int kStride, class End>
__attribute__((noinline)) void edge_pixel(const average_pool_args& g, const End& given, int64_t x, int from, int to, ptrdiff_t c,
                                          __mmask64 k) {
  const End end = given;
  const Part lanes(k, 0, 0);
  const ptrdiff_t at = (g.first + x * g.stride) * g.pixel + c;
  each_outputs<kHeight, kStride, Part::kShared>(
      g, [&](auto down, const uint8_t* const* window, int i) __attribute__((always_inline)) {
        constexpr int kDown = down, kOutputs = kDown ? 2 : 1;
        const uint8_t* rows[kHeight + kDown];
        rows_of<kHeight, kDown>(window, 0, rows);
        Sums s[kOutputs], v[kOutputs];
#pragma GCC unroll 2
        for (int o = 0; o < kOutputs; ++o) s[o] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
        for (int t = from; t < to; ++t) {
          column<kHeight, kDown>(end, lanes, rows, at + t * g.pixel, v);
#pragma GCC unroll 2
          for (int o = 0; o < kOutputs; ++o) s[o] = s[o] + v[o];
        }
#pragma GCC unroll 2
        for (int o = 0; o < kOutputs; ++o) lanes.store(g.out + (i + o) * g.ldr + x * g.ldo + c, end(s[o]));
      });
}

template <int kHeight, int kTaps, int kStride, class Table>
void edge_pixels(const average_pool_args& g, const Finish& f, int64_t x, int64_t end, ptrdiff_t c, __mmask64 k) {
  for (; x < end; ++x) {
    const int64_t at = g.first + x * g.stride;
    int from = 0, to = kTaps;
    while (from < to && at + from < 0) ++from;
    while (from < to && at + to > g.columns) --to;
    with_end<Table>(g, f, to - from, [&](const auto& e) { edge_pixel<kHeight, kStride>(g, e, x, from, to, c, k); });
  }
}

// Of one output row, or of two, `count` pixels from byte `at` of the rows on, all of whose taps lie inside.
template <int kHeight, int kTaps, int kStride, int kDown, class End, class Lanes>
QGEMM_INLINE void inner_row(const average_pool_args& g, const End& end, const Lanes& lanes, const uint8_t* const* window,
                            ptrdiff_t at, uint8_t* out, int64_t count) {
  constexpr int kKept = kTaps - kStride, kOutputs = kDown ? 2 : 1;
  const ptrdiff_t pixel = g.pixel, ldo = g.ldo, ldr = g.ldr;
  const uint8_t* rows[kHeight + kDown];
  rows_of<kHeight, kDown>(window, at, rows);
  Sums w[kTaps][kOutputs];
#pragma GCC unroll 3
  for (int t = 0; t < kKept; ++t) column<kHeight, kDown>(end, lanes, rows, t * pixel, w[t]);
  for (uint8_t* const stop = out + count * ldo; out != stop; out += ldo) {
#pragma GCC unroll 3
    for (int t = kKept; t < kTaps; ++t) column<kHeight, kDown>(end, lanes, rows, t * pixel, w[t]);
#pragma GCC unroll 5
    for (int r = 0; r < kHeight + kDown; ++r) rows[r] += kStride * pixel;
#pragma GCC unroll 2
    for (int o = 0; o < kOutputs; ++o) {
      Sums s = w[0][o];
#pragma GCC unroll 3
      for (int t = 1; t < kTaps; ++t) s = s + w[t][o];
      lanes.store(out + o * ldr, end(s));
#pragma GCC unroll 3
      for (int t = 0; t < kKept; ++t) w[t][o] = w[t + kStride][o];
    }
  }
}

// The same of all output rows, from pixel x on.
template <int kHeight, int kTaps, int kStride, class Lanes, class End>
__attribute__((noinline)) void inner_rows(const average_pool_args& g, const End& given, int64_t x, int64_t count, ptrdiff_t c,
                                          __mmask64 k) {
  const End end = given;  // in registers: bytes that are stored might alias what is behind a reference
  const Lanes lanes(k, count * kStride * g.pixel, count * g.ldo);
  const ptrdiff_t at = (g.first + x * g.stride) * g.pixel + c;
  uint8_t* const out = g.out + x * g.ldo + c;
  each_outputs<kHeight, kStride, Lanes::kShared>(
      g, [&](auto down, const uint8_t* const* window, int i) __attribute__((always_inline)) {
        inner_row<kHeight, kTaps, kStride, down>(g, end, lanes, window, at, out + i * g.ldr, count);
      });
}

// Channels [c, c + lanes) of the pixels whose taps all lie inside.
template <int kHeight, int kTaps, int kStride, class End>
QGEMM_INLINE void inner_pixels(const average_pool_args& g, const End& end, const Inside& inside, ptrdiff_t c, int lanes) {
  const __mmask64 k = lanes64(lanes);
  int64_t x = inside.lo;
  if (lanes == 64) return inner_rows<kHeight, kTaps, kStride, Whole>(g, end, x, inside.hi - x, c, k);
  if (lanes <= 32) {
    // Only behind a row's last pixel are there no 32 bytes. (More taps have too many addresses.)
    const int64_t within = kTaps == 2 && g.pixel + lanes >= 32 ? (inside.hi - x - 1) / 2 : 0;
    if constexpr (kTaps == 2)
      if (within > 0) inner_rows<kHeight, kTaps, kStride, TwoWithin>(g, end, x, within, c, k);
    x += 2 * within;
    const int64_t pairs = (inside.hi - x) / 2;
    if (pairs > 0) inner_rows<kHeight, kTaps, kStride, Two>(g, end, x, pairs, c, k);
    x += 2 * pairs;
  }
  if (x < inside.hi) inner_rows<kHeight, kTaps, kStride, Part>(g, end, x, inside.hi - x, c, k);
}

template <int kHeight, int kTaps, int kStride, class Table>
void kept_columns(const average_pool_args& g, const Finish& f, const Inside& inside, ptrdiff_t c, int lanes) {
  if (inside.lo > 0) edge_pixels<kHeight, kTaps, kStride, Table>(g, f, 0, inside.lo, c, lanes64(lanes));
  if (inside.lo < inside.hi)
    with_end<Table>(g, f, kTaps, [&](const auto& end) { inner_pixels<kHeight, kTaps, kStride>(g, end, inside, c, lanes); });
  if (inside.hi < g.pixels) edge_pixels<kHeight, kTaps, kStride, Table>(g, f, inside.hi, g.pixels, c, lanes64(lanes));
}

// Windows of kTaps columns and up to as many rows.
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

}  // namespace
}  // namespace avx512vnni
}  // namespace qgemm
