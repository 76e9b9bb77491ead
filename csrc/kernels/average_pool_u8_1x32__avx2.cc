// Averages of windows, 32 channels a step. Two bytes of a channel are brought side by side by unpacks, and one vpmaddubsw with
// ones adds them to 16 bits; the unpacks' order is what the packs at the end undo. Windows of more bytes than 16 bits hold the
// sum of, and pixels of few channels, take 16 a step, widened to 32 bits.
#include "kernels/epilogue__avx2.h"

namespace qgemm {
namespace avx2 {
namespace {

constexpr int kMostWords = 256;  // bytes that 16 bits hold the sum of: 257, but pairs are what is added

// The columns of a window that lie in the image.
struct Covered {
  int64_t first;  // byte of the first one in a row
  ptrdiff_t step;
  int columns;
};
QGEMM_INLINE Covered covered_by(const average_pool_args& g, int64_t x) {
  const int64_t column = g.first + x * g.stride;
  int from = 0, to = g.taps;
  while (from < to && column + from * g.dilation < 0) ++from;
  while (from < to && column + (to - 1) * g.dilation >= g.columns) --to;
  return {(column + from * g.dilation) * g.pixel, static_cast<ptrdiff_t>(g.dilation * g.pixel), to - from};
}

QGEMM_INLINE __m256i load32(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }

// What follows the sum of a window.
struct Finish {
  __m256 inv_scale, top, factor, rounding;
  __m256i zero_point, lo, hi, flip;

  explicit Finish(const average_pool_args& g)
      : inv_scale(_mm256_set1_ps(g.inv_scale)),
        top(_mm256_set1_ps(static_cast<float>(g.hi - g.zero_point))),
        factor(_mm256_set1_ps(g.factor)),
        // The lowest bits of the float 3 * 2^22 + n are those of the integer n.
        rounding(_mm256_set1_ps(12582912.0f + static_cast<float>(g.zero_point))),
        zero_point(_mm256_set1_epi16(static_cast<short>(g.zero_point))),
        lo(_mm256_set1_epi8(static_cast<char>(g.lo))),
        hi(_mm256_set1_epi8(static_cast<char>(g.hi))),
        flip(_mm256_set1_epi8(static_cast<char>(g.flip))) {}

  // 8 sums less their zero points, already floats, to the output grid. vcvtps2dq turns every overflow into INT_MIN, so the upper
  // bound is applied in float.
  __m256i grid(__m256 acc, __m256 scale) const {
    return _mm256_cvtps_epi32(_mm256_min_ps(_mm256_mul_ps(_mm256_mul_ps(acc, scale), inv_scale), top));
  }
  // 32 sums of 16 bits, in the order of unpacks, to bytes in natural order. The float 2^23 + s has s as its low word, so an
  // unpack with a constant makes floats; subtracting 2^23 and what the zero points sum to, `zero`, is exact.
  template <bool kAtOnce>
  __m256i bytes(__m256i sums_lo, __m256i sums_hi, __m256 zero, __m256 scale) const {
    const __m256i exponent = _mm256_set1_epi16(0x4b00);
    const auto one = [&](__m256i biased) __attribute__((always_inline)) {
      const __m256 acc = _mm256_sub_ps(_mm256_castsi256_ps(biased), zero);
      if (!kAtOnce) return grid(acc, scale);
      const __m256i q = _mm256_castps_si256(_mm256_fmadd_ps(acc, factor, rounding));
      return _mm256_sub_epi32(q, _mm256_castps_si256(_mm256_set1_ps(12582912.0f)));
    };
    const auto shifted = [&](__m256i words) __attribute__((always_inline)) {
      return kAtOnce ? words : _mm256_adds_epi16(words, zero_point);
    };
    const __m256i w01 =
        _mm256_packs_epi32(one(_mm256_unpacklo_epi16(sums_lo, exponent)), one(_mm256_unpackhi_epi16(sums_lo, exponent)));
    const __m256i w23 =
        _mm256_packs_epi32(one(_mm256_unpacklo_epi16(sums_hi, exponent)), one(_mm256_unpackhi_epi16(sums_hi, exponent)));
    const __m256i q = _mm256_packus_epi16(shifted(w01), shifted(w23));
    return _mm256_xor_si256(_mm256_min_epu8(_mm256_max_epu8(q, lo), hi), flip);
  }
};

// Channels [c, c + 32) of pixel x.
QGEMM_INLINE void block32(const average_pool_args& g, const Finish& f, int64_t x, const Covered& w, ptrdiff_t c, __m256 zero,
                          __m256 scale) {
  const __m256i ones = _mm256_set1_epi8(1), nothing = _mm256_setzero_si256();
  __m256i lo = nothing, hi = nothing;
  for (int r = 0; r < g.height; ++r) {
    const uint8_t* p = g.rows[r] + w.first + c;
    int t = 0;
    for (; t + 2 <= w.columns; t += 2, p += 2 * w.step) {
      const __m256i a = load32(p), b = load32(p + w.step);
      lo = _mm256_add_epi16(lo, _mm256_maddubs_epi16(_mm256_unpacklo_epi8(a, b), ones));
      hi = _mm256_add_epi16(hi, _mm256_maddubs_epi16(_mm256_unpackhi_epi8(a, b), ones));
    }
    if (t < w.columns) {
      const __m256i a = load32(p);
      lo = _mm256_add_epi16(lo, _mm256_unpacklo_epi8(a, nothing));
      hi = _mm256_add_epi16(hi, _mm256_unpackhi_epi8(a, nothing));
    }
  }
  const bool at_once = g.factor != 0 && w.columns == g.taps;
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(g.out + x * g.ldo + c),
                      at_once ? f.bytes<true>(lo, hi, zero, scale) : f.bytes<false>(lo, hi, zero, scale));
}

QGEMM_INLINE __m256i load_words(const uint8_t* p, size_t n) {
  if (n >= 16) return _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  uint8_t last[16] = {};
  memcpy(last, p, n);
  return _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(last)));
}

// Channels [c, c + 16), or the n there are of them, of pixel x.
void block16(const average_pool_args& g, const Finish& f, int64_t x, const Covered& w, ptrdiff_t c, size_t n) {
  __m256i lo = _mm256_setzero_si256(), hi = lo, words = lo;
  int room = kMostWords;
  const auto flush = [&]() __attribute__((always_inline)) {
    lo = _mm256_add_epi32(lo, _mm256_cvtepu16_epi32(_mm256_castsi256_si128(words)));
    hi = _mm256_add_epi32(hi, _mm256_cvtepu16_epi32(_mm256_extracti128_si256(words, 1)));
    words = _mm256_setzero_si256();
    room = kMostWords;
  };
  for (int r = 0; r < g.height; ++r) {
    const uint8_t* p = g.rows[r] + w.first + c;
    for (int t = 0; t < w.columns; ++t, p += w.step) {
      if (room == 0) flush();
      words = _mm256_add_epi16(words, load_words(p, n));
      --room;
    }
  }
  flush();
  const __m256i less = _mm256_set1_epi32(static_cast<int>(int64_t(g.height) * w.columns * g.x_zero_point));
  const __m256 scale = _mm256_set1_ps(g.scale[w.columns]);
  const __m256i q0 = f.grid(_mm256_cvtepi32_ps(_mm256_sub_epi32(lo, less)), scale),
                q1 = f.grid(_mm256_cvtepi32_ps(_mm256_sub_epi32(hi, less)), scale);
  const __m256i sum = _mm256_adds_epi16(_mm256_permute4x64_epi64(_mm256_packs_epi32(q0, q1), 0xd8), f.zero_point);
  __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
  bytes = _mm_xor_si128(_mm_max_epu8(bytes, _mm256_castsi256_si128(f.lo)), _mm256_castsi256_si128(f.flip));
  if (n >= 16) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(g.out + x * g.ldo + c), bytes);
  } else {
    uint8_t last[16];
    _mm_storeu_si128(reinterpret_cast<__m128i*>(last), bytes);
    memcpy(g.out + x * g.ldo + c, last, n);
  }
}

// The first row of outputs. The last step of a pixel shares some channels with the one before.
void one_row(const average_pool_args& g, const Finish& f) {
  const ptrdiff_t n = g.channels;
  for (int64_t x = 0; x < g.pixels; ++x) {
    const Covered w = covered_by(g, x);
    if (n < 32 || int64_t(g.height) * w.columns > kMostWords) {
      for (ptrdiff_t c = 0; c < n; c += 16) {
        const ptrdiff_t at = n < 16 || c + 16 <= n ? c : n - 16;
        block16(g, f, x, w, at, static_cast<size_t>(n < 16 ? n : 16));
      }
      continue;
    }
    const __m256 zero = _mm256_set1_ps(8388608.0f + static_cast<float>(int64_t(g.height) * w.columns * g.x_zero_point));
    const __m256 scale = _mm256_set1_ps(g.scale[w.columns]);
    for (ptrdiff_t c = 0; c < n; c += 32) block32(g, f, x, w, c + 32 <= n ? c : n - 32, zero, scale);
  }
}

}  // namespace

void average_pool_u8_1x32(const average_pool_args& given) {
  const Finish f(given);
  average_pool_args g = given;
  for (int i = 0; i < given.outputs; ++i, g.rows += g.height, g.out += g.ldr) one_row(g, f);
}

}  // namespace avx2
}  // namespace qgemm
