// From sums of 16 bits to averages: the ends of average_pool. Included in its AVX-512 files only.
#pragma once
#include <type_traits>

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
// Of two bytes, or of one, each times a weight that all bytes of a register are.
QGEMM_INLINE Sums pair(__m512i a, __m512i b, __m512i weight) {
  return {_mm512_maddubs_epi16(_mm512_unpacklo_epi8(a, b), weight), _mm512_maddubs_epi16(_mm512_unpackhi_epi8(a, b), weight)};
}
QGEMM_INLINE Sums single(__m512i a, __m512i weight) { return pair(a, _mm512_setzero_si512(), weight); }
QGEMM_INLINE Sums pair(__m512i a, __m512i b) { return pair(a, b, _mm512_set1_epi8(1)); }
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
  // Sums of 32 bits in the order of unpacks, of which zero points are `less`.
  QGEMM_MEMBER __m512i totals(const __m512i* total, __m512i less, __m512 scale) const {
    __m512i q[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) q[j] = grid<false>(_mm512_cvtepi32_ps(_mm512_sub_epi32(total[j], less)), scale);
    return bytes(q[0], q[1], q[2], q[3]);
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
  QGEMM_MEMBER __m512i words_at_once(const Sums& s, __m512 zero) const {
    const __m512i exponent = _mm512_set1_epi16(0x4b00), halves = lower_halves();
    const auto one = [&](__m512i biased) __attribute__((always_inline)) {
      return _mm512_castps_si512(_mm512_fmadd_ps(_mm512_sub_ps(_mm512_castsi512_ps(biased), zero), factor, rounding));
    };
    const __m512i q0 = one(_mm512_unpacklo_epi16(s.lo, exponent)), q1 = one(_mm512_unpackhi_epi16(s.lo, exponent)),
                  q2 = one(_mm512_unpacklo_epi16(s.hi, exponent)), q3 = one(_mm512_unpackhi_epi16(s.hi, exponent));
    const __m512i q = _mm512_packus_epi16(_mm512_permutex2var_epi16(q0, halves, q1), _mm512_permutex2var_epi16(q2, halves, q3));
    return _mm512_xor_si512(_mm512_min_epu8(_mm512_max_epu8(q, lo), hi), flip);
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

// The ends of windows that cover so many columns, from sums of bytes times `weight` on. By two products:
template <bool kBounded>
struct TwoProducts {
  static constexpr bool kWeighted = false;
  QGEMM_MEMBER TwoProducts(const average_pool_args& g, const Finish& finish, int covered)
      : f(finish),
        zero(Finish::zero_of(int64_t(g.height) * covered * g.x_zero_point)),
        scale(_mm512_set1_ps(g.scale[covered])),
        weight(_mm512_set1_epi8(1)) {}
  QGEMM_MEMBER __m512i operator()(const Sums& s) const { return f.words<kBounded>(s, zero, scale); }
  Finish f;
  __m512 zero, scale;
  __m512i weight;
};
// By one factor:
struct OneFactor {
  static constexpr bool kWeighted = false;
  QGEMM_MEMBER OneFactor(const average_pool_args& g, const Finish& finish, int covered)
      : f(finish), zero(Finish::zero_of(int64_t(g.height) * covered * g.x_zero_point)), weight(_mm512_set1_epi8(1)) {}
  QGEMM_MEMBER __m512i operator()(const Sums& s) const { return f.words_at_once(s, zero); }
  Finish f;
  __m512 zero;
  __m512i weight;
};
// In 16 bits. kLess: the offset is negative.
template <bool kLess>
struct Words {
  static constexpr bool kWeighted = true;
  QGEMM_MEMBER Words(const average_pool_args& g, const Finish&, int covered) : Words(g.words[covered]) {}
  explicit QGEMM_MEMBER Words(const average_words& a)
      : weight(_mm512_set1_epi8(static_cast<char>(a.weight))),
        offset(_mm512_set1_epi16(static_cast<short>(kLess ? -a.offset : a.offset))),
        factor(_mm512_set1_epi16(static_cast<short>(a.factor))),
        shift(_mm_cvtsi32_si128(a.shift)) {}
  QGEMM_MEMBER __m512i operator()(const Sums& s) const {
    const auto one = [&](__m512i sum) __attribute__((always_inline)) {
      sum = kLess ? _mm512_subs_epu16(sum, offset) : _mm512_add_epi16(sum, offset);
      return _mm512_srl_epi16(_mm512_mulhi_epu16(sum, factor), shift);
    };
    return _mm512_packus_epi16(one(s.lo), one(s.hi));
  }
  __m512i weight, offset, factor;
  __m128i shift;
};

// In 16 bits by one rounding multiplication.
struct Rounded {
  static constexpr bool kWeighted = false;
  QGEMM_MEMBER Rounded(const average_pool_args& g, const Finish&, int covered)
      : weight(_mm512_set1_epi8(1)), factor(_mm512_set1_epi16(static_cast<short>(g.words[covered].factor))) {}
  QGEMM_MEMBER __m512i operator()(const Sums& s) const {
    return _mm512_packus_epi16(_mm512_mulhrs_epi16(s.lo, factor), _mm512_mulhrs_epi16(s.hi, factor));
  }
  __m512i weight, factor;
};

// f(end) with the shortest end that windows have which cover so many columns. Table: the end by thresholds, or void.
template <class Table, class F>
QGEMM_INLINE void with_end(const average_pool_args& g, const Finish& finish, int covered, F&& f) {
  const WordsForm form = g.words ? g.words[covered].form : WordsForm::none;
  if constexpr (!std::is_void_v<Table>)
    if (form == WordsForm::thresholds) return f(Table(g, finish, covered));
  if (form == WordsForm::rounded)
    f(Rounded(g, finish, covered));
  else if (form == WordsForm::shifted)
    g.words[covered].offset < 0 ? f(Words<true>(g, finish, covered)) : f(Words<false>(g, finish, covered));
  else if (covered == g.taps && g.factor != 0)
    f(OneFactor(g, finish, covered));
  else if (g.bounded)
    f(TwoProducts<true>(g, finish, covered));
  else
    f(TwoProducts<false>(g, finish, covered));
}

}  // namespace
}  // namespace avx512vnni
}  // namespace qgemm
