// Maxima of windows. Along a row the maximum of each column is taken once and kept in registers for every window that holds the
// column, of up to 256 channels at once, so that lines follow each other.
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

// Channels [c, c + 64) of all pixels, of which mask k names those that are there: any window.
void any_pixels(const max_pool_args& g, ptrdiff_t c, __mmask64 k) {
  for (int64_t x = 0; x < g.pixels; ++x) {
    __m512i m = _mm512_setzero_si512();
    for (int t = 0; t < g.taps; ++t) {
      const int64_t at = g.first + x * g.stride + t * g.dilation;
      if (at < 0 || at >= g.columns) continue;
      for (int r = 0; r < g.height; ++r) m = _mm512_max_epu8(m, _mm512_maskz_loadu_epi8(k, g.rows[r] + at * g.pixel + c));
    }
    _mm512_mask_storeu_epi8(g.out + x * g.ldo + c, k, m);
  }
}

// The same of kBlocks registers, the last masked by k, where windows are up to kTaps rows by kTaps columns that touch.
template <class Bytes, int kTaps, int kStride, int kBlocks>
void kept_columns(const max_pool_args& given, const Inside& inside, ptrdiff_t c, __mmask64 k) {
  constexpr int kKept = kTaps - kStride;
  const max_pool_args g = given;  // in registers: bytes that are stored might alias what is behind a reference
  const uint8_t* rows[kTaps];
  for (int r = 0; r < kTaps; ++r) rows[r] = g.rows[r < g.height ? r : 0] + c;  // a row twice changes no maximum
  int64_t column = g.first;                                                    // the window's first
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
  uint8_t* out = g.out + c;
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
#pragma GCC unroll 5
  for (int t = 0; t < kKept; ++t) load(t, true);
  some(inside.lo, true);
  some(inside.hi - inside.lo, false);
  some(g.pixels - inside.hi, true);
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

}  // namespace

void max_pool_u8_1x64(const max_pool_args& g) {
  const bool touch = g.dilation == 1 && g.height >= 1 && g.height <= g.taps;
  if (touch && g.taps == 2 && g.stride == 2) return kept_columns<2, 2>(g);
  if (touch && g.taps == 3 && g.stride == 2) return kept_columns<3, 2>(g);
  if (touch && g.taps == 3 && g.stride == 1) return kept_columns<3, 1>(g);
  if (touch && g.taps == 5 && g.stride == 1) return kept_columns<5, 1>(g);
  for (ptrdiff_t c = 0; c < g.channels; c += 64)
    any_pixels(g, c, lanes64(g.channels - c < 64 ? static_cast<int>(g.channels - c) : 64));
}

}  // namespace avx512vnni
}  // namespace qgemm
