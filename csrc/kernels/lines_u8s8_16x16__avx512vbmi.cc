// 16 pixels of an output line in the lanes of a register, 8 channels in registers. Where an output sums few products, a tile with
// channels in the lanes spends as long on its end, and on bringing the pieces of every pixel together, as on products. Here a
// permutation of bytes fetches four bytes of 16 pixels, from whichever input lines, for all channels, weights are broadcast, and
// two more permutations of bytes turn 16 pixels of 8 channels round. The end of 8 channels is worked off beside the products of
// the next 8, and what the next 16 pixels need is fetched while these are multiplied: it is written long before it is read.
#include "kernels/epilogue__avx512vnni.h"

namespace qgemm {
namespace avx512vbmi {

using avx512vnni::lanes16;
using avx512vnni::lanes64;

namespace {

// Where the steps of 16 pixels come from, over kTaps taps of kBytes bytes. Lane 4 * l + j holds pixel 4 * j + l, so that the
// end's unpacks leave pixels in order.
template <int kTaps, int kBytes>
class Steps {
 public:
  static constexpr int kLeft = kBytes % 4, kRests = (kTaps * kLeft + 3) / 4, kGroups = kBytes / 4;
  static constexpr int kCount = kTaps * kGroups + kRests;

  QGEMM_MEMBER explicit Steps(const lines_args& g) : g_(g) {
    const __m512i pixel = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i first = _mm512_mullo_epi32(pixel, _mm512_set1_epi32(static_cast<int>(g.step) * 0x01010101));
    index_ = _mm512_add_epi8(first, _mm512_set1_epi32(0x03020100));
    padding_ = _mm512_set1_epi8(static_cast<char>(g.padding));
    // Byte b of those joined is byte b % kLeft of the end of tap b / kLeft.
    for (int r = 0; r < kRests; ++r) {
      uint32_t within = 0;
      for (int t = 0; t < kTaps; ++t) joined_[r][t] = 0;
      for (int b = 4 * r; b < 4 * r + 4 && b < kTaps * kLeft; ++b) {
        within |= static_cast<uint32_t>(kBytes - kLeft + b % kLeft) << (b % 4 * 8);
        joined_[r][b / kLeft] |= 0x1111111111111111ull << (b % 4);
      }
      rest_[r] = _mm512_add_epi8(first, _mm512_set1_epi32(static_cast<int>(within)));
    }
  }

  // Of 16 pixels of output line `line`, or as many as there are, from pixel x on, to a[step][64].
  QGEMM_MEMBER void fetch(int line, ptrdiff_t x, uint8_t* a) const {
    const ptrdiff_t at = g_.first + x * g_.step;
    const uint8_t* const* rows = g_.rows + line * g_.advance;
    if (line + 1 < g_.outputs)  // the last rows of the next output line
#pragma GCC unroll 2
      for (int t = kTaps - 2; t < kTaps; ++t) {
        __builtin_prefetch(rows[g_.advance + t] + at);
        __builtin_prefetch(rows[g_.advance + t] + at + 64);
      }
    if (at >= 0 && at + 128 <= g_.bytes) {
      fetch([=](int t, int half) { return _mm512_loadu_si512(rows[t] + at + 64 * half); }, a);
    } else {
      const __mmask64 in[2] = {inside(at), inside(at + 64)};
      fetch([=](int t, int half) { return _mm512_mask_loadu_epi8(padding_, in[half], rows[t] + at + 64 * half); }, a);
    }
  }

 private:
  // Of the 64 bytes from `at` on those that the line has.
  QGEMM_MEMBER __mmask64 inside(ptrdiff_t at) const {
    const ptrdiff_t end = g_.bytes - at, before = at < 0 ? -at : 0;
    return end <= 0 || before >= 64 ? 0 : lanes64(end < 64 ? static_cast<int>(end) : 64) & (~0ull << before);
  }

  template <class Load>
  QGEMM_MEMBER void fetch(Load load, uint8_t* a) const {
    __m512i rest[kRests];
#pragma GCC unroll 2
    for (int r = 0; r < kRests; ++r) rest[r] = rest_[r];
#pragma GCC unroll 8
    for (int t = 0; t < kTaps; ++t) {
      const __m512i x = load(t, 0), y = load(t, 1);
#pragma GCC unroll 8
      for (int k = 0; k < kGroups; ++k, a += 64)
        _mm512_store_si512(a,
                           _mm512_permutex2var_epi8(x, _mm512_add_epi8(index_, _mm512_set1_epi8(static_cast<char>(4 * k))), y));
#pragma GCC unroll 2
      for (int r = 0; r < kRests; ++r)
        if (t * kLeft < 4 * r + 4 && (t + 1) * kLeft > 4 * r)
          rest[r] = _mm512_mask2_permutex2var_epi8(x, rest[r], joined_[r][t], y);
    }
#pragma GCC unroll 2
    for (int r = 0; r < kRests; ++r, a += 64) _mm512_store_si512(a, rest[r]);
  }

  const lines_args& g_;
  __m512i index_, padding_, rest_[kRests];
  uint64_t joined_[kRests][kTaps];
};

// What 8 channels need, side by side, so that one address serves all of it.
template <int kSteps>
struct Channels {
  int32_t correction[8];
  int8_t weights[kSteps][8][4];
  float scale[8], bias[8];

  QGEMM_MEMBER void load(const lines_args& g, int first) {
    for (int s = 0; s < kSteps; ++s) copy(weights[s], g.b + 4 * (s * static_cast<ptrdiff_t>(g.width) + first));
    copy(correction, g.ep->correction + g.col + first);
    copy(scale, g.ep->scale + g.col + first);
    copy(bias, g.ep->bias + g.col + first);
  }

 private:
  static QGEMM_MEMBER void copy(void* to, const void* from) {
    _mm256_storeu_si256(static_cast<__m256i*>(to), _mm256_loadu_si256(static_cast<const __m256i*>(from)));
  }
};

// acc += x * four weights. In assembly, or gcc copies the accumulators on every step.
QGEMM_INLINE __m512i add_products(__m512i acc, __m512i x, const int8_t* w) {
  __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(x), "m"(*reinterpret_cast<const int32_t(*)[1]>(w)));
  return acc;
}

// Half steps [begin, end), at most kMost: 4 channels each.
template <int kMost, int kSteps>
QGEMM_INLINE void add_half_steps(__m512i (&acc)[8], int begin, int end, const uint8_t* a, const Channels<kSteps>& of) {
#pragma GCC unroll 8
  for (int h = 0; h < kMost; ++h) {
    if (begin + h >= end) break;
    const int step = (begin + h) / 2, first = (begin + h) % 2 * 4;
    const __m512i x = _mm512_load_si512(a + 64 * step);
#pragma GCC unroll 4
    for (int i = first; i < first + 4; ++i) acc[i] = add_products(acc[i], x, of.weights[step][i]);
  }
}

// Before products that follow, and after those before, or gcc puts all products together.
QGEMM_INLINE void stay_here(__m512i& words, __m512i (&acc)[8]) {
  __m512i w = words, a = acc[0], b = acc[1], c = acc[2], d = acc[3], e = acc[4], f = acc[5], g = acc[6], h = acc[7];
  __asm__("" : "+v"(w), "+v"(a), "+v"(b), "+v"(c), "+v"(d), "+v"(e), "+v"(f), "+v"(g), "+v"(h));
  words = w, acc[0] = a, acc[1] = b, acc[2] = c, acc[3] = d, acc[4] = e, acc[5] = f, acc[6] = g, acc[7] = h;
}

// n of 16 channels of fewer pixels than 16, or fewer channels.
__attribute__((noinline)) void store_part(__m512i v0, __m512i v1, __m512i v2, __m512i v3, int pixels, int n, uint8_t* c,
                                          ptrdiff_t ldc) {
  alignas(64) uint8_t all[4 * 64];
  _mm512_store_si512(all, v0);
  _mm512_store_si512(all + 64, v1);
  _mm512_store_si512(all + 128, v2);
  _mm512_store_si512(all + 192, v3);
  for (int i = 0; i < pixels; ++i, c += ldc)
    _mm_mask_storeu_epi8(c, lanes16(n), _mm_load_si128(reinterpret_cast<const __m128i*>(all + 16 * i)));
}

// The end of 8 channels of 16 pixels at a time.
template <bool kBounded>
class End {
 public:
  // pair: memory for 16 channels of 16 pixels.
  QGEMM_MEMBER End(const lines_args& g, uint8_t* pair)
      : pair_(pair),
        inv_scale_(_mm512_set1_ps(g.ep->inv_scale)),
        top_(_mm512_set1_ps(static_cast<float>(g.ep->hi - g.ep->zero_point))),
        zero_point_(_mm512_set1_epi16(static_cast<short>(g.ep->zero_point))),
        lo_(_mm512_set1_epi8(static_cast<char>(g.ep->lo))),
        hi_(_mm512_set1_epi8(static_cast<char>(g.ep->hi))),
        flip_(_mm512_set1_epi8(g.ep->out == OutType::s8 ? static_cast<char>(0x80) : 0)),
        n_(g.n),
        ldc_(g.ldc),
        whole_(g.ep->lo == 0 && g.ep->hi == 255 && g.ep->out == OutType::u8) {
    // A lane of packed bytes is 4 channels of 4 pixels each; of two such, to 8 channels of pixels 0 and 1, or 2 and 3.
    const __m512i lanes = _mm512_setr_epi32(0, 0, 0, 0, 0x10101010, 0x10101010, 0x10101010, 0x10101010, 0x20202020, 0x20202020,
                                            0x20202020, 0x20202020, 0x30303030, 0x30303030, 0x30303030, 0x30303030);
    low_ = _mm512_or_si512(lanes, _mm512_set4_epi32(0x4d494541, 0x0d090501, 0x4c484440, 0x0c080400));
    high_ = _mm512_or_si512(lanes, _mm512_set4_epi32(0x4f4b4743, 0x0f0b0703, 0x4e4a4642, 0x0e0a0602));
  }

  // What comes next: 8 channels from `first` on, of `pixels` pixels at c.
  QGEMM_MEMBER void begin(int first, int pixels, uint8_t* c) { first_ = first, pixels_ = pixels, c_ = c; }

  // A channel to the output's grid, in two pieces, and two of them to words.
  QGEMM_MEMBER __m512 to_float(__m512i acc, float scale, float bias) const {
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc), _mm512_set1_ps(scale), _mm512_set1_ps(bias));
  }
  QGEMM_MEMBER __m512i to_grid(__m512 y) const {
    y = _mm512_mul_ps(y, inv_scale_);
    return _mm512_cvtps_epi32(kBounded ? y : _mm512_min_ps(y, top_));
  }
  QGEMM_MEMBER __m512i to_words(__m512i a, __m512i b) const { return _mm512_adds_epi16(_mm512_packs_epi32(a, b), zero_point_); }

  // What is left, from four registers of words on. 16, 24 and 32 channels are stored at once where there are as many.
  QGEMM_MEMBER void store(const __m512i* words) {
    const __m512i a = bytes(words[0], words[1]), b = bytes(words[2], words[3]);
    const __m512i low = _mm512_permutex2var_epi8(a, low_, b), high = _mm512_permutex2var_epi8(a, high_, b);
    const int left = n_ - first_;
    if (first_ % 16 == 0 && left > 8) {
      half_[0] = low, half_[1] = high;
    } else if (first_ == 16 && dense_24()) {
      store_24(low, high);
    } else if (first_ % 16 == 0) {
      store_8(low, high, left);
    } else {
      const __m512i v[4] = {_mm512_unpacklo_epi64(half_[0], low), _mm512_unpackhi_epi64(half_[0], low),
                            _mm512_unpacklo_epi64(half_[1], high), _mm512_unpackhi_epi64(half_[1], high)};
      if (first_ % 32 == 8 && (left >= 24 || (left == 16 && dense_24()))) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) _mm512_store_si512(pair_ + 64 * j, v[j]);
      } else if (first_ % 32 == 24 && left >= 8) {
        store_32(v);
      } else {
        store_16(v, first_ - 8, left + 8 < 16 ? left + 8 : 16);
      }
    }
  }

 private:
  QGEMM_MEMBER __m512i bytes(__m512i a, __m512i b) const {
    const __m512i v = _mm512_packus_epi16(a, b);
    return whole_ ? v : _mm512_xor_si512(_mm512_min_epu8(_mm512_max_epu8(v, lo_), hi_), flip_);
  }

  // v[j]: 16 channels from `first` on, of which n count, of pixels 4 * j to 4 * j + 3.
  QGEMM_MEMBER void store_16(const __m512i* v, int first, int n) const {
    uint8_t* c = c_ + first;
    if (pixels_ < 16 || n < 16) {
      store_part(v[0], v[1], v[2], v[3], pixels_, n, c, ldc_);
    } else if (ldc_ == 16) {
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) _mm512_storeu_si512(c + 64 * j, v[j]);
    } else {
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j, c += 4 * ldc_) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(c), _mm512_castsi512_si128(v[j]));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(c + ldc_), _mm512_extracti32x4_epi32(v[j], 1));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(c + 2 * ldc_), _mm512_extracti32x4_epi32(v[j], 2));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(c + 3 * ldc_), _mm512_extracti32x4_epi32(v[j], 3));
      }
    }
  }

  // The 16 channels before, which wait in pair_, and these.
  QGEMM_MEMBER void store_32(const __m512i* v) const {
    if (pixels_ < 16) {
      __m512i before[4];
      for (int j = 0; j < 4; ++j) before[j] = _mm512_load_si512(pair_ + 64 * j);
      store_16(before, first_ - 24, 16);
      store_16(v, first_ - 8, 16);
      return;
    }
    const __m512i low = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), high = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    uint8_t* c = c_ + first_ - 24;
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j, c += 4 * ldc_) {
      const __m512i before = _mm512_load_si512(pair_ + 64 * j);
      const __m512i a = _mm512_permutex2var_epi64(before, low, v[j]), b = _mm512_permutex2var_epi64(before, high, v[j]);
      if (ldc_ == 32) {
        _mm512_storeu_si512(c, a);
        _mm512_storeu_si512(c + 64, b);
      } else {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(c), _mm512_castsi512_si256(a));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(c + ldc_), _mm512_extracti64x4_epi64(a, 1));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(c + 2 * ldc_), _mm512_castsi512_si256(b));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(c + 3 * ldc_), _mm512_extracti64x4_epi64(b, 1));
      }
    }
  }

  QGEMM_MEMBER bool dense_24() const { return n_ == 24 && ldc_ == 24 && pixels_ == 16; }

  // The 16 channels before, which wait in pair_, and 8 more, as store_8 has them: three registers are 8 pixels.
  QGEMM_MEMBER void store_24(__m512i low, __m512i high) const {
    uint8_t* c = c_;
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j, c += 192) {
      const __m512i v = j ? high : low;
      const __m512i a = _mm512_load_si512(pair_ + 128 * j), b = _mm512_load_si512(pair_ + 128 * j + 64);
      // 8 bytes each: 2 * p and 2 * p + 1 of a are pixel p's, of b pixel 4 + p's; 8 + 2 * p and 9 + 2 * p of v pixels p's and 4 +
      // p's.
      const __m512i first = _mm512_setr_epi64(0, 1, 8, 2, 3, 10, 4, 5), third = _mm512_setr_epi64(3, 11, 4, 5, 13, 6, 7, 15);
      const __m512i second = _mm512_setr_epi64(12, 6, 7, 14, 8, 9, 10, 11), rest = _mm512_setr_epi64(0, 1, 2, 3, 8, 9, 5, 10);
      _mm512_storeu_si512(c, _mm512_permutex2var_epi64(a, first, v));
      const __m512i ends = _mm512_permutex2var_epi64(a, second, v);
      _mm512_storeu_si512(c + 64, _mm512_permutex2var_epi64(ends, rest, b));
      _mm512_storeu_si512(c + 128, _mm512_permutex2var_epi64(b, third, v));
    }
  }

  // Lane l of `low`: n of 8 channels of pixels l and 4 + l; of `high`, of pixels 8 + l and 12 + l.
  QGEMM_MEMBER void store_8(__m512i low, __m512i high, int n) const {
    if (pixels_ < 16 || n < 8) {
      const __m512i zero = _mm512_setzero_si512();
      const __m512i v[4] = {_mm512_unpacklo_epi64(low, zero), _mm512_unpackhi_epi64(low, zero), _mm512_unpacklo_epi64(high, zero),
                            _mm512_unpackhi_epi64(high, zero)};
      store_16(v, first_, n);
      return;
    }
    uint8_t* c = c_ + first_;
    const auto pixels = [&](uint8_t* at, __m128i v) {
      _mm_storel_pi(reinterpret_cast<__m64*>(at), _mm_castsi128_ps(v));  // any address; those of doubles want to be aligned
      _mm_storeh_pi(reinterpret_cast<__m64*>(at + 4 * ldc_), _mm_castsi128_ps(v));
    };
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j, c += 8 * ldc_) {
      const __m512i v = j ? high : low;
      pixels(c, _mm512_castsi512_si128(v));
      pixels(c + ldc_, _mm512_extracti32x4_epi32(v, 1));
      pixels(c + 2 * ldc_, _mm512_extracti32x4_epi32(v, 2));
      pixels(c + 3 * ldc_, _mm512_extracti32x4_epi32(v, 3));
    }
  }

  uint8_t* const pair_;
  __m512 inv_scale_, top_;
  __m512i zero_point_, lo_, hi_, flip_, low_, high_, half_[2];
  int n_, first_ = 0, pixels_ = 0;
  uint8_t* c_ = nullptr;
  ptrdiff_t ldc_;
  bool whole_;
};

// The last 8 channels, beside which nothing is multiplied.
struct Sums {
  __m512i acc[8];
};
template <bool kBounded>
__attribute__((noinline)) void finish(End<kBounded> end, Sums last, const float* scale, const float* bias) {
  __m512i q[8], words[4];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) q[i] = end.to_grid(end.to_float(last.acc[i], scale[i], bias[i]));
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) words[i] = end.to_words(q[2 * i], q[2 * i + 1]);
  end.store(words);
}

template <class Source, bool kBounded>
void run(const lines_args& g) {
  constexpr int kSteps = Source::kCount, kMost = (kSteps + 7) / 8;
  alignas(64) uint8_t fetched[2][kSteps * 64], pair[4 * 64];
  alignas(64) Channels<kSteps> channels[8];
  for (int first = 0; first < g.n; first += 8) channels[first / 8].load(g, first);
  const Source source(g);
  End<kBounded> end(g, pair);
  // A round fetches 16 pixels and multiplies those that the round before fetched, in the first none; 8 channels of them beside
  // the end of the 8 before, before which there is none.
  const Channels<kSteps>* before = channels;
  Sums last;
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) last.acc[i] = _mm512_setzero_si512();
  bool pending = false;
  int line = 0, next_line = 0, odd = 0;
  ptrdiff_t x = -1, next_x = g.pixels > 0 && g.outputs > 0 ? 0 : -1;
  while (x >= 0 || next_x >= 0) {
    if (next_x >= 0) source.fetch(next_line, next_x, fetched[odd]);
    odd ^= 1;
    const uint8_t* const a = fetched[odd];
    const int pixels = g.pixels - x < 16 ? static_cast<int>(g.pixels - x) : 16;
    uint8_t* const c = static_cast<uint8_t*>(g.c) + line * g.ldr + x * g.ldc;
    for (int first = x >= 0 ? 0 : g.n; first < g.n; first += 8) {
      const Channels<kSteps>* const now = channels + first / 8;
      __m512i acc[8], q[8], words[4];
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) acc[i] = _mm512_set1_epi32(now->correction[i]);
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) {
        const int from = 2 * kSteps * i / 8, to = 2 * kSteps * (i + 1) / 8, middle = from + (to - from) / 2;
        __m512i y = _mm512_castps_si512(end.to_float(last.acc[i], before->scale[i], before->bias[i]));
        stay_here(y, acc);
        add_half_steps<kMost>(acc, from, middle, a, *now);
        q[i] = end.to_grid(_mm512_castsi512_ps(y));
        stay_here(q[i], acc);
        add_half_steps<kMost>(acc, middle, to, a, *now);
        if (i % 2) {
          words[i / 2] = end.to_words(q[i - 1], q[i]);
          stay_here(words[i / 2], acc);
        }
      }
      if (pending) end.store(words);
      pending = true;
      end.begin(first, pixels, c);
      before = now;
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) last.acc[i] = acc[i];
    }
    line = next_line, x = next_x;
    if (next_x >= 0 && (next_x += 16) >= g.pixels) next_x = ++next_line < g.outputs ? 0 : -1;
  }
  if (pending) finish(end, last, before->scale, before->bias);
}

template <class Source>
void run(const lines_args& g) {
  if (g.ep->bounded)
    run<Source, true>(g);
  else
    run<Source, false>(g);
}

}  // namespace

void lines_u8s8_16x16(const lines_args& g) {
  if (g.taps == 5) return run<Steps<5, 5>>(g);
  if (g.kc == 6) return run<Steps<3, 6>>(g);
  run<Steps<3, 9>>(g);
}

}  // namespace avx512vbmi
}  // namespace qgemm
