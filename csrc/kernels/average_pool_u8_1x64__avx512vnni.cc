// Averages of windows, 64 channels a step. Two bytes of a channel are brought side by side by unpacks, and one vpmaddubsw with
// ones adds them to 16 bits; the unpacks' order is what the packs at the end undo. Where windows overlap, the sums of columns are
// kept.
#include "kernels/pixels__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {
namespace {

constexpr int kMostWords = 256;  // bytes that 16 bits hold the sum of: 257, but pairs are what is added

// 64 sums of 16 bits, in the order of unpacks.
struct Sums {
  __m512i lo, hi;
};
QGEMM_INLINE Sums operator+(const Sums& a, const Sums& b) { return {_mm512_add_epi16(a.lo, b.lo), _mm512_add_epi16(a.hi, b.hi)}; }
QGEMM_INLINE Sums pair(__m512i a, __m512i b) {
  const __m512i ones = _mm512_set1_epi8(1);
  return {_mm512_maddubs_epi16(_mm512_unpacklo_epi8(a, b), ones), _mm512_maddubs_epi16(_mm512_unpackhi_epi8(a, b), ones)};
}
QGEMM_INLINE Sums single(__m512i a) {
  const __m512i zero = _mm512_setzero_si512();
  return {_mm512_unpacklo_epi8(a, zero), _mm512_unpackhi_epi8(a, zero)};
}

// What follows the sum of a window.
struct Finish {
  explicit QGEMM_MEMBER Finish(const average_pool_args& g)
      : inv_scale(_mm512_set1_ps(g.inv_scale)),
        top(_mm512_set1_ps(static_cast<float>(g.hi - g.zero_point))),
        zero_point(_mm512_set1_epi16(static_cast<short>(g.zero_point))),
        lo(_mm512_set1_epi8(static_cast<char>(g.lo))),
        hi(_mm512_set1_epi8(static_cast<char>(g.hi))),
        flip(_mm512_set1_epi8(static_cast<char>(g.flip))),
        factor(_mm512_set1_ps(g.factor)),
        // The lowest bits of the float 3 * 2^22 + n are those of the integer n.
        rounding(_mm512_set1_ps(12582912.0f + static_cast<float>(g.zero_point))) {}

  // Sums less their zero points, already floats, to the output grid. vcvtps2dq turns every overflow into INT_MIN: where one is
  // possible the upper bound is applied in float.
  template <bool kBounded>
  QGEMM_MEMBER __m512i grid(__m512 acc, __m512 scale) const {
    __m512 t = _mm512_mul_ps(_mm512_mul_ps(acc, scale), inv_scale);
    if (!kBounded) t = _mm512_min_ps(t, top);
    return _mm512_cvtps_epi32(t);
  }
  QGEMM_MEMBER __m512i bytes(__m512i q0, __m512i q1, __m512i q2, __m512i q3) const {
    const __m512i w01 = _mm512_adds_epi16(_mm512_packs_epi32(q0, q1), zero_point);
    const __m512i w23 = _mm512_adds_epi16(_mm512_packs_epi32(q2, q3), zero_point);
    return _mm512_xor_si512(_mm512_min_epu8(_mm512_max_epu8(_mm512_packus_epi16(w01, w23), lo), hi), flip);
  }
  // The float 2^23 + s has s as its low word, so an unpack with a constant makes floats; subtracting 2^23 and what the zero
  // points sum to, `zero`, is exact.
  template <bool kBounded>
  QGEMM_MEMBER __m512i words(const Sums& s, __m512 zero, __m512 scale) const {
    const __m512i exponent = _mm512_set1_epi16(0x4b00);
    const auto one = [&](__m512i biased) __attribute__((always_inline)) {
      return grid<kBounded>(_mm512_sub_ps(_mm512_castsi512_ps(biased), zero), scale);
    };
    return bytes(one(_mm512_unpacklo_epi16(s.lo, exponent)), one(_mm512_unpackhi_epi16(s.lo, exponent)),
                 one(_mm512_unpacklo_epi16(s.hi, exponent)), one(_mm512_unpackhi_epi16(s.hi, exponent)));
  }
  // The same with one factor. Of two registers of int32 the lower halves are taken in the order of a pack.
  template <bool kClamped>
  QGEMM_MEMBER __m512i words_at_once(const Sums& s, __m512 zero) const {
    const __m512i exponent = _mm512_set1_epi16(0x4b00), halves = lower_halves();
    const auto one = [&](__m512i biased) __attribute__((always_inline)) {
      return _mm512_castps_si512(_mm512_fmadd_ps(_mm512_sub_ps(_mm512_castsi512_ps(biased), zero), factor, rounding));
    };
    const __m512i q0 = one(_mm512_unpacklo_epi16(s.lo, exponent)), q1 = one(_mm512_unpackhi_epi16(s.lo, exponent)),
                  q2 = one(_mm512_unpacklo_epi16(s.hi, exponent)), q3 = one(_mm512_unpackhi_epi16(s.hi, exponent));
    const __m512i q = _mm512_packus_epi16(_mm512_permutex2var_epi16(q0, halves, q1), _mm512_permutex2var_epi16(q2, halves, q3));
    return kClamped ? _mm512_xor_si512(_mm512_min_epu8(_mm512_max_epu8(q, lo), hi), flip) : q;
  }
  static QGEMM_MEMBER __m512i lower_halves() {
    alignas(64) static constexpr uint16_t order[32] = {0,  2,  4,  6,  32, 34, 36, 38, 8,  10, 12, 14, 40, 42, 44, 46,
                                                       16, 18, 20, 22, 48, 50, 52, 54, 24, 26, 28, 30, 56, 58, 60, 62};
    return _mm512_load_si512(order);
  }
  static QGEMM_MEMBER __m512 zero_of(int64_t sum) { return _mm512_set1_ps(8388608.0f + static_cast<float>(sum)); }

  __m512 inv_scale, top;
  __m512i zero_point, lo, hi, flip;
  __m512 factor, rounding;
};

enum class End { any, bounded, at_once, at_once_unclamped };  // of a sum: two products, or one factor

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
template <int kHeight, int kTaps, int kStride, int kPixels, End kEnd>
__attribute__((noinline)) void inner_run(const average_pool_args& g, const Finish& given, int64_t x, int64_t count, ptrdiff_t c,
                                         __mmask64 k) {
  constexpr int kKept = kTaps - kStride;
  const Finish f = given;  // in registers: bytes that are stored might alias what is behind a reference
  const ptrdiff_t pixel = g.pixel, ldo = g.ldo;
  const ptrdiff_t apart = count * kStride * pixel, out_apart = count * g.ldo;
  const __m512 zero = Finish::zero_of(int64_t(kHeight) * kTaps * g.x_zero_point), scale = _mm512_set1_ps(g.scale[kTaps]);
  for (int i = 0; i < g.outputs; ++i) {
    const uint8_t* rows[kHeight];
    for (int r = 0; r < kHeight; ++r) rows[r] = g.rows[i * kHeight + r] + (g.first + x * g.stride) * pixel + c;
    uint8_t* out = g.out + i * g.ldr + x * g.ldo + c;
    Sums w[kTaps];
#pragma GCC unroll 3
    for (int t = 0; t < kKept; ++t) w[t] = column<kHeight, kPixels>(rows, t * pixel, apart, k);
    for (uint8_t* const stop = out + out_apart; out != stop; out += ldo) {
#pragma GCC unroll 3
      for (int t = kKept; t < kTaps; ++t) w[t] = column<kHeight, kPixels>(rows, t * pixel, apart, k);
#pragma GCC unroll 3
      for (int r = 0; r < kHeight; ++r) rows[r] += kStride * pixel;
      Sums s = w[0];
#pragma GCC unroll 3
      for (int t = 1; t < kTaps; ++t) s = s + w[t];
      if constexpr (kEnd == End::at_once || kEnd == End::at_once_unclamped)
        store_pixels<kPixels>(out, out_apart, k, f.words_at_once<kEnd == End::at_once>(s, zero));
      else
        store_pixels<kPixels>(out, out_apart, k, f.words<kEnd == End::bounded>(s, zero, scale));
#pragma GCC unroll 3
      for (int t = 0; t < kKept; ++t) w[t] = w[t + kStride];
    }
  }
}

template <int kHeight, int kTaps, int kStride, End kEnd>
void inner_pixels_to(const average_pool_args& g, const Finish& f, int64_t x, int64_t end, ptrdiff_t c, int lanes) {
  const __mmask64 k = lanes64(lanes);
  if (lanes <= 32 && end - x >= 4) {
    const int64_t count = (end - x) / 2;
    inner_run<kHeight, kTaps, kStride, 2, kEnd>(g, f, x, count, c, k);
    x += 2 * count;
  }
  inner_run<kHeight, kTaps, kStride, 1, kEnd>(g, f, x, end - x, c, k);
}

template <int kHeight, int kTaps, int kStride>
void inner_pixels(const average_pool_args& g, const Finish& f, const Inside& inside, ptrdiff_t c, int lanes) {
  const int64_t lo = inside.lo, hi = inside.hi;
  if (lo == hi) return;
  if (g.factor != 0 && g.lo == 0 && g.hi == 255 && g.flip == 0)
    inner_pixels_to<kHeight, kTaps, kStride, End::at_once_unclamped>(g, f, lo, hi, c, lanes);
  else if (g.factor != 0)
    inner_pixels_to<kHeight, kTaps, kStride, End::at_once>(g, f, lo, hi, c, lanes);
  else if (g.bounded)
    inner_pixels_to<kHeight, kTaps, kStride, End::bounded>(g, f, lo, hi, c, lanes);
  else
    inner_pixels_to<kHeight, kTaps, kStride, End::any>(g, f, lo, hi, c, lanes);
}

template <int kHeight, int kTaps, int kStride>
void kept_columns(const average_pool_args& g, const Finish& f, const Inside& inside, ptrdiff_t c, int lanes) {
  const auto edges = g.bounded ? edge_pixels<kHeight, kTaps, true> : edge_pixels<kHeight, kTaps, false>;
  if (inside.lo > 0) edges(g, f, 0, inside.lo, c, lanes64(lanes));
  inner_pixels<kHeight, kTaps, kStride>(g, f, inside, c, lanes);
  if (inside.hi < g.pixels) edges(g, f, inside.hi, g.pixels, c, lanes64(lanes));
}

template <int kTaps, int kStride>
void kept_columns(const average_pool_args& g, const Finish& f) {
  const Inside inside = inside_of(g, kStride);
  for (ptrdiff_t c = 0; c < g.channels; c += 64) {
    const int lanes = g.channels - c < 64 ? static_cast<int>(g.channels - c) : 64;
    if (g.height == kTaps)
      kept_columns<kTaps, kTaps, kStride>(g, f, inside, c, lanes);
    else if (g.height == 1)
      kept_columns<1, kTaps, kStride>(g, f, inside, c, lanes);
    else
      kept_columns<2, kTaps, kStride>(g, f, inside, c, lanes);
  }
}

}  // namespace

void average_pool_u8_1x64(const average_pool_args& g) {
  const Finish f(g);
  if (g.dilation == 1 && g.height >= 1 && g.height <= g.taps) {
    if (g.taps == 2 && g.stride == 2) return kept_columns<2, 2>(g, f);
    if (g.taps == 3 && g.stride == 2) return kept_columns<3, 2>(g, f);
    if (g.taps == 3 && g.stride == 1) return kept_columns<3, 1>(g, f);
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

}  // namespace avx512vnni
}  // namespace qgemm
