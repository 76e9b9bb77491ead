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
  static QGEMM_MEMBER __mmask64 mask(bool last, __mmask64 k) { return last ? k : ~0ull; }
  static QGEMM_MEMBER V zero() { return _mm512_setzero_si512(); }
  static QGEMM_MEMBER V load(const uint8_t* p, __mmask64 k) { return _mm512_maskz_loadu_epi8(k, p); }
  static QGEMM_MEMBER V larger(V a, V b) { return _mm512_max_epu8(a, b); }
  static QGEMM_MEMBER void store(uint8_t* p, __mmask64 k, V v) { _mm512_mask_storeu_epi8(p, k, v); }
};
// All lanes, which the compiler knows: a masked load is a load and a blend.
struct Whole64 : Bytes64 {
  static QGEMM_MEMBER __mmask64 mask(bool, __mmask64) { return ~0ull; }
};
struct Bytes32 {
  using V = __m256i;
  static QGEMM_MEMBER __mmask64 mask(bool, __mmask64 k) { return k; }
  static QGEMM_MEMBER V zero() { return _mm256_setzero_si256(); }
  static QGEMM_MEMBER V load(const uint8_t* p, __mmask64 k) { return _mm256_maskz_loadu_epi8(static_cast<__mmask32>(k), p); }
  static QGEMM_MEMBER V larger(V a, V b) { return _mm256_max_epu8(a, b); }
  static QGEMM_MEMBER void store(uint8_t* p, __mmask64 k, V v) { _mm256_mask_storeu_epi8(p, static_cast<__mmask32>(k), v); }
};
struct Bytes16 {
  using V = __m128i;
  static QGEMM_MEMBER __mmask64 mask(bool, __mmask64 k) { return k; }
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

// The first n bytes of a register, none of them where n is negative.
QGEMM_INLINE __mmask64 first_bytes(ptrdiff_t n) { return lanes64(n < 0 ? 0 : n < 64 ? static_cast<int>(n) : 64); }

// Row r of the window's at output row i. A row twice changes no maximum.
QGEMM_INLINE const uint8_t* row_of(const max_pool_args& g, int i, int r) {
  return g.rows[i * g.advance + (r < g.height ? r : 0)];
}

// How many output rows are made two at a time, the windows of which begin kStride rows apart.
template <int kTaps, int kStride>
int paired(const max_pool_args& g) {
  return g.advance == kStride && g.height == kTaps ? g.outputs / 2 * 2 : 0;
}

// The rows that kRows output rows from i on read.
template <int kTaps, int kStride, int kRows>
struct Lines {
  static constexpr int kLines = kTaps + (kRows - 1) * kStride;
  const uint8_t* row[kLines];
  QGEMM_MEMBER Lines(const max_pool_args& g, int i, ptrdiff_t c) {
#pragma GCC unroll 6
    for (int r = 0; r < kLines; ++r) row[r] = (r < kTaps ? row_of(g, i, r) : row_of(g, i + 1, r - kStride)) + c;
  }
  // The maximum of a column for each output row. Two take that of the rows between, which they share, once.
  template <class Bytes>
  QGEMM_MEMBER void columns(ptrdiff_t at, __mmask64 k, typename Bytes::V* m) const {
    const auto all = [&](int first, int last) __attribute__((always_inline)) {
      auto most = Bytes::load(row[first] + at, k);
#pragma GCC unroll 5
      for (int r = first + 1; r <= last; ++r) most = Bytes::larger(most, Bytes::load(row[r] + at, k));
      return most;
    };
    if (kRows == 1) {
      m[0] = all(0, kTaps - 1);
    } else if (kStride == 1) {
      const auto shared = all(1, kTaps - 1);
      m[0] = Bytes::larger(all(0, 0), shared);
      m[kRows - 1] = Bytes::larger(shared, all(kLines - 1, kLines - 1));
    } else {
      m[0] = all(0, kTaps - 1);
      m[kRows - 1] = all(kStride, kLines - 1);
    }
  }
};

// Windows of up to kTaps rows by kTaps columns that touch, of kBlocks registers of channels from c on, the last masked by k:
// output rows [begin, end), kRows at a time.
template <class Bytes, int kTaps, int kStride, int kBlocks, int kRows>
void kept_columns(const max_pool_args& given, const Inside& inside, ptrdiff_t c, __mmask64 k, int begin, int end) {
  constexpr int kKept = kTaps - kStride;
  const max_pool_args g = given;  // in registers: bytes that are stored might alias what is behind a reference
  for (int i = begin; i < end; i += kRows) {
    const Lines<kTaps, kStride, kRows> lines(g, i, c);
    int64_t column = g.first;  // the window's first
    typename Bytes::V w[kTaps][kBlocks][kRows];
    const auto mask = [&](int b) __attribute__((always_inline)) { return Bytes::mask(b == kBlocks - 1, k); };
    // Column t of the window. Those outside are smaller than any.
    const auto load = [&](int t, bool checked) __attribute__((always_inline)) {
      const int64_t at = column + t;
      const bool there = !checked || (at >= 0 && at < g.columns);
#pragma GCC unroll 4
      for (int b = 0; b < kBlocks; ++b) {
#pragma GCC unroll 2
        for (int r = 0; r < kRows; ++r) w[t][b][r] = Bytes::zero();
        if (there) lines.template columns<Bytes>(at * g.pixel + 64 * b, mask(b), w[t][b]);
      }
    };
    uint8_t* out = g.out + i * g.ldr + c;
    const auto window = [&]() __attribute__((always_inline)) {
#pragma GCC unroll 4
      for (int b = 0; b < kBlocks; ++b)
#pragma GCC unroll 2
        for (int r = 0; r < kRows; ++r) {
          auto m = w[0][b][r];
#pragma GCC unroll 5
          for (int t = 1; t < kTaps; ++t) m = Bytes::larger(m, w[t][b][r]);
          Bytes::store(out + r * g.ldr + 64 * b, mask(b), m);
#pragma GCC unroll 5
          for (int t = 0; t < kKept; ++t) w[t][b][r] = w[t + kStride][b][r];
        }
      out += g.ldo;
    };
    const auto clear = [&](int t) __attribute__((always_inline)) {
#pragma GCC unroll 4
      for (int b = 0; b < kBlocks; ++b)
#pragma GCC unroll 2
        for (int r = 0; r < kRows; ++r) w[t][b][r] = Bytes::zero();
    };
    const auto some = [&](int64_t count, bool checked) __attribute__((always_inline)) {
      for (; count > 0; --count, column += kStride) {
#pragma GCC unroll 5
        for (int t = kKept; t < kTaps; ++t) load(t, checked);
        window();
      }
    };
    // Windows around each pixel of the line, as "same" padding has them: which columns are outside is known.
    constexpr int kHalf = kTaps / 2;
    const bool centred = kStride == 1 && g.first == -kHalf && g.pixels == g.columns && g.columns >= kTaps;
#pragma GCC unroll 5
    for (int t = 0; t < kKept; ++t) {
      if (centred && t < kHalf)
        clear(t);
      else
        load(t, !centred);
    }
    some(inside.lo, true);
    some(inside.hi - inside.lo, false);
    if (centred) {
#pragma GCC unroll 2
      for (int x = 0; x < kHalf; ++x) clear(kTaps - 1), window();
      continue;
    }
    some(g.pixels - inside.hi, true);
  }
}

// Channels [c, c + n), up to 256, or 128 for two rows.
template <class Bytes, int kTaps, int kStride, int kRows>
void kept_columns(const max_pool_args& g, const Inside& inside, ptrdiff_t c, ptrdiff_t n, int begin, int end) {
  constexpr int kMost = kRows == 2 ? 2 : 4, kThree = kMost < 3 ? kMost : 3;
  const __mmask64 k = lanes64(static_cast<int>((n - 1) % 64 + 1));
  if (n <= 64) return kept_columns<Bytes, kTaps, kStride, 1, kRows>(g, inside, c, k, begin, end);
  if (n <= 128) return kept_columns<Bytes, kTaps, kStride, 2, kRows>(g, inside, c, k, begin, end);
  if (n <= 192) return kept_columns<Bytes, kTaps, kStride, kThree, kRows>(g, inside, c, k, begin, end);
  kept_columns<Bytes, kTaps, kStride, kMost, kRows>(g, inside, c, k, begin, end);
}

// Output rows [begin, end), kRows at a time, of pixels of any size.
template <int kTaps, int kStride, int kRows>
void kept_columns(const max_pool_args& g, const Inside& inside, int begin, int end) {
  if (g.channels <= 16) return kept_columns<Bytes16, kTaps, kStride, 1, kRows>(g, inside, 0, lanes64(g.channels), begin, end);
  if (g.channels <= 32) return kept_columns<Bytes32, kTaps, kStride, 1, kRows>(g, inside, 0, lanes64(g.channels), begin, end);
  constexpr ptrdiff_t kMost = kRows == 2 ? 128 : 256;  // bytes of a pixel at once
  for (ptrdiff_t c = 0; c < g.channels; c += kMost) {
    const ptrdiff_t left = g.channels - c < kMost ? g.channels - c : kMost;
    if (left % 64 == 0)
      kept_columns<Whole64, kTaps, kStride, kRows>(g, inside, c, left, begin, end);
    else
      kept_columns<Bytes64, kTaps, kStride, kRows>(g, inside, c, left, begin, end);
  }
}

template <int kTaps, int kStride>
void kept_pixels(const max_pool_args& g) {
  // Windows whose new columns are inside: those that a window shares with the one before may lie ahead of the line.
  constexpr int kKept = kTaps - kStride;
  const int64_t past = g.columns - kTaps - g.first;  // from the last column of the first window to the line's
  Inside inside{};
  inside.hi = past < 0 ? 0 : past / kStride + 1 < g.pixels ? past / kStride + 1 : g.pixels;
  inside.lo = -g.first <= kKept ? 0 : (-g.first - kKept + kStride - 1) / kStride;
  if (inside.lo > inside.hi) inside.lo = inside.hi;
  // Two output rows read each of their lines once, but two new ones side by side: lines of larger pixels pass faster one by one.
  const int twos = kStride == 1 && (kTaps == 5 || g.channels <= 64) ? paired<kTaps, kStride>(g) : 0;
  if (twos > 0) kept_columns<kTaps, kStride, kStride == 1 ? 2 : 1>(g, inside, 0, twos);
  if (twos < g.outputs) kept_columns<kTaps, kStride, 1>(g, inside, twos, g.outputs);
}

template <int kTaps, int kStride>
void kept_columns(const max_pool_args& g) {
  // Of wide windows so many pixels at a time that L1 holds what two output rows read and write, as the next two read most of it
  // again: parts of a line, unless they would be hardly wider than a window.
  constexpr ptrdiff_t kL1Bytes = 32 << 10;
  const ptrdiff_t each = (kTaps + 3) * g.pixel, most = each ? (kL1Bytes - 3072) / each : 0;
  if (kTaps < 5 || g.advance != 1 || each * g.pixels <= kL1Bytes || most < 2 * kTaps) return kept_pixels<kTaps, kStride>(g);
  const ptrdiff_t parts = (g.pixels + most - 1) / most;
  for (ptrdiff_t i = 0; i < parts; ++i) {
    const ptrdiff_t from = g.pixels * i / parts;
    max_pool_args part = g;
    part.first += from * kStride;
    part.out += from * g.ldo;
    part.pixels = static_cast<int32_t>(g.pixels * (i + 1) / parts - from);
    kept_pixels<kTaps, kStride>(part);
  }
}

// Where pixels of less than a register follow each other, in the rows and in `out`, and the stride is 1, a line is one array of
// bytes. Registers of the maxima of its columns pass through kTaps - 1 steps, each of which takes the larger of every byte and
// the one a pixel after it (for which the next register must be there, so the result is that of the register before) or a pixel
// ahead of it. kBefore of a window's columns lie ahead of the one that has the result's place.
template <int kTaps, int kBefore>
class WholeLines {
 public:
  explicit WholeLines(const max_pool_args& given) : g_(given) {
    const ptrdiff_t line = g_.columns * g_.pixel, end = g_.pixels * g_.pixel, fit = end / 64 + kAfter;
    whole_ = fit < line / 64 ? fit : line / 64;
    tail_ = (end + 63) / 64 + kAfter - whole_;
    if (!possible()) return;
    for (ptrdiff_t t = 0; t < tail_; ++t) {
      loaded_[t] = first_bytes(line - 64 * (whole_ + t));
      stored_[t] = first_bytes(end - 64 * (whole_ + t - kAfter));
    }
    const __m512i iota = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    after_ = _mm512_add_epi32(iota, _mm512_set1_epi32(g_.channels / 4));
    before_ = _mm512_add_epi32(iota, _mm512_set1_epi32(16 - g_.channels / 4));
  }

  // Whether the line is long enough for that, and its length not too far from that of the results.
  bool possible() const { return whole_ >= kAfter && tail_ <= kMostTail; }

  void run() const {
    const int twos = paired<kTaps, 1>(g_);
    for (int i = 0; i < twos; i += 2) some<2>(i);
    for (int i = twos; i < g_.outputs; ++i) some<1>(i);
  }

 private:
  static constexpr int kAfter = kTaps - 1 - kBefore, kMostTail = 4;

  template <int kRows>
  void some(int row) const {
    const Lines<kTaps, 1, kRows> lines(g_, row, 0);
    const __m512i after = after_, before = before_;
    __m512i last[kRows][kTaps - 1];
#pragma GCC unroll 2
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
      for (int s = 0; s < kTaps - 1; ++s) last[r][s] = _mm512_setzero_si512();
    uint8_t* const out = g_.out + row * g_.ldr - 64 * kAfter;
    const ptrdiff_t ldr = g_.ldr, whole = whole_;
    // Register i of the line, and the results that it completes.
    const auto step = [&](ptrdiff_t i, __mmask64 read, bool stores, __mmask64 written) __attribute__((always_inline)) {
      __m512i v[kRows];
      lines.template columns<Bytes64>(64 * i, read, v);
#pragma GCC unroll 2
      for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
        for (int s = 0; s < kTaps - 1; ++s) {
          const __m512i moved = _mm512_permutex2var_epi32(last[r][s], s < kAfter ? after : before, v[r]);
          const __m512i m = _mm512_max_epu8(s < kAfter ? last[r][s] : v[r], moved);
          last[r][s] = v[r];
          v[r] = m;
        }
        if (stores) _mm512_mask_storeu_epi8(out + r * ldr + 64 * i, written, v[r]);
      }
    };
    ptrdiff_t i = 0;
#pragma GCC unroll 2
    for (; i < kAfter; ++i) step(i, ~0ull, false, 0);
    for (; i < whole; ++i) step(i, ~0ull, true, ~0ull);
    for (ptrdiff_t t = 0; t < tail_; ++t, ++i) step(i, loaded_[t], true, stored_[t]);
  }

  const max_pool_args g_;
  // Registers of the line that are whole and after which a whole register of results is known; what is left of both.
  ptrdiff_t whole_, tail_;
  __mmask64 loaded_[kMostTail], stored_[kMostTail];
  __m512i after_, before_;
};

template <int kTaps, int kBefore>
bool whole_lines(const max_pool_args& g) {
  const WholeLines<kTaps, kBefore> lines(g);
  if (lines.possible()) lines.run();
  return lines.possible();
}

// The same of stride 2: from registers of the maxima of columns, 64 bytes of every other column ("even") and of those after them
// ("odd") are drawn. A window is one of either, and where it has three columns, the odd one of the window before.
template <int kTaps>
class HalvedLines {
 public:
  explicit HalvedLines(const max_pool_args& given)
      : g_(given), ahead_(g_.first + kTaps - 2), line_((g_.columns - ahead_) * g_.pixel), end_(g_.pixels * g_.pixel) {
    const ptrdiff_t results = end_ / 64, there = line_ < 64 ? 0 : (line_ / 64 - 1) / 2;
    whole_ = results < there ? results : there;
    tail_ = (end_ + 63) / 64 - whole_;
    if (!possible()) return;
    for (ptrdiff_t t = 0; t < tail_; ++t) {
      const ptrdiff_t at = 64 * (whole_ + t);
      masks_[t] = {first_bytes(line_ - 2 * at - 64), first_bytes(line_ - 2 * at - 128), first_bytes(end_ - at)};
    }
    const int words = g_.channels / 4;
    const __m512i iota = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0), all = _mm512_set1_epi32(words);
    // Word i of a register of results is word `at` of its pixel, and 2 i words on less `at`, counted from the register of the
    // line where the results' begin, lie those of the even column.
    const auto below = [&](__m512i v) { return _mm512_min_epu32(v, _mm512_sub_epi32(v, all)); };
    __m512i at = iota;
    for (int i = 0; i < 15 / words; ++i) at = below(at);
    const int further = 16 % words;
    int first = 0;
    periods_ = 0;
    do {
      Pick& p = picks_[periods_++];
      p.even = _mm512_sub_epi32(_mm512_add_epi32(iota, iota), at);
      p.odd = _mm512_add_epi32(p.even, all);
      p.before = _mm512_movepi32_mask(p.even);
      p.after = _mm512_cmpge_epi32_mask(p.odd, _mm512_set1_epi32(32));
      at = below(_mm512_add_epi32(at, _mm512_set1_epi32(further)));
      first = first + further < words ? first + further : first + further - words;
    } while (first != 0);
    previous_ = _mm512_add_epi32(iota, _mm512_set1_epi32(16 - words));
  }

  // Whether the first window's even column is inside, and the line's length not too far from that of the results.
  bool possible() const { return ahead_ >= 0 && ahead_ < kTaps - 1 && line_ >= 0 && tail_ <= kMostTail; }

  void run() const {
    const int twos = paired<kTaps, 2>(g_);
    for (int i = 0; i < twos; i += 2) some<2>(i);
    for (int i = twos; i < g_.outputs; ++i) some<1>(i);
  }

 private:
  static constexpr int kMostTail = 4;
  static constexpr __mmask64 kAll = ~0ull;
  struct Masks {
    __mmask64 next, after, written;
  };
  // Where 16 words lie: of 32 from two registers, less those before or after these.
  struct Pick {
    __m512i even, odd;
    __mmask16 before, after;
  };

  template <int kRows>
  void some(int row) const {
    const Lines<kTaps, 2, kRows> lines(g_, row, ahead_ * g_.pixel);
    const auto load = [&](ptrdiff_t i, __mmask64 k, __m512i * v) __attribute__((always_inline)) {
      lines.template columns<Bytes64>(64 * i, k, v);
    };
    // Of the line's registers, those before and at the place where the results' begin; the odd columns before them.
    __m512i before[kRows], here[kRows], last[kRows];
#pragma GCC unroll 2
    for (int r = 0; r < kRows; ++r) before[r] = last[r] = _mm512_setzero_si512();
    load(0, first_bytes(line_), here);
    if (kTaps == 3 && ahead_ == 1) load(-1, ~lanes64(64 - g_.channels), last);
    const __m512i previous = previous_;
    const Pick *p = picks_, *const end = picks_ + periods_;
    uint8_t* out = g_.out + row * g_.ldr;
    const ptrdiff_t ldr = g_.ldr;
    const auto step = [&](ptrdiff_t j, const Masks& k) __attribute__((always_inline)) {
      __m512i next[kRows], after[kRows];
      load(2 * j + 1, k.next, next);
      load(2 * j + 2, k.after, after);
#pragma GCC unroll 2
      for (int r = 0; r < kRows; ++r) {
        __m512i even = _mm512_permutex2var_epi32(here[r], p->even, next[r]),
                odd = _mm512_permutex2var_epi32(here[r], p->odd, next[r]);
        even = _mm512_mask_permutexvar_epi32(even, p->before, p->even, before[r]);
        odd = _mm512_mask_permutexvar_epi32(odd, p->after, p->odd, after[r]);
        __m512i m = _mm512_max_epu8(even, odd);
        if (kTaps == 3) m = _mm512_max_epu8(m, _mm512_permutex2var_epi32(last[r], previous, odd));
        _mm512_mask_storeu_epi8(out + r * ldr + 64 * j, k.written, m);
        before[r] = next[r];
        here[r] = after[r];
        last[r] = odd;
      }
      if (++p == end) p = picks_;
    };
    ptrdiff_t j = 0;
    for (; j < whole_; ++j) step(j, {kAll, kAll, kAll});
    for (ptrdiff_t t = 0; t < tail_; ++t, ++j) step(j, masks_[t]);
  }

  const max_pool_args g_;
  const ptrdiff_t ahead_;       // columns ahead of the first even one
  const ptrdiff_t line_, end_;  // bytes of the line from there, and of the results
  ptrdiff_t whole_, tail_;      // registers of the results that are whole, as are those that they are drawn from; what is left
  Masks masks_[kMostTail];
  int periods_;
  Pick picks_[15];
  __m512i previous_;
};

template <int kTaps>
bool halved_lines(const max_pool_args& g) {
  const HalvedLines<kTaps> lines(g);
  if (lines.possible()) lines.run();
  return lines.possible();
}

}  // namespace

void max_pool_u8_1x64(const max_pool_args& g) {
  const bool touch = g.dilation == 1 && g.height >= 1 && g.height <= g.taps;
  // 4 bytes are what moves from register to register.
  const bool dense =
      touch && g.channels > 0 && g.channels < 64 && g.channels % 4 == 0 && g.pixel == g.channels && g.ldo == g.channels;
  if (dense && g.stride == 1) {
    if (g.taps == 3 && g.first == 0 && whole_lines<3, 0>(g)) return;
    if (g.taps == 3 && g.first == -1 && whole_lines<3, 1>(g)) return;
    if (g.taps == 5 && g.first == -2 && whole_lines<5, 2>(g)) return;
  }
  if (dense && g.stride == 2 && g.channels <= 56 && g.channels != 32) {  // 32 bytes cross no line, and 60 are nearly a register
    if (g.taps == 2 && halved_lines<2>(g)) return;
    if (g.taps == 3 && halved_lines<3>(g)) return;
  }
  if (touch && g.taps == 2 && g.stride == 2) return kept_columns<2, 2>(g);
  if (touch && g.taps == 3 && g.stride == 2) return kept_columns<3, 2>(g);
  if (touch && g.taps == 3 && g.stride == 1) return kept_columns<3, 1>(g);
  if (touch && g.taps == 5 && g.stride == 1) return kept_columns<5, 1>(g);
  for (int i = 0; i < g.outputs; ++i)
    for (ptrdiff_t c = 0; c < g.channels; c += 64)
      any_pixels(g, g.rows + i * g.advance, g.out + i * g.ldr, c,
                 lanes64(g.channels - c < 64 ? static_cast<int>(g.channels - c) : 64));
}

}  // namespace avx512vnni
}  // namespace qgemm
