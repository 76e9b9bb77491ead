#include "kernels/coefficients.h"
#include "kernels/rows__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {

namespace {

// x <= 0
QGEMM_INLINE __m512 softmax_exp(__m512 x) {
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(kLog2E)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(kLn2Lo), _mm512_fnmadd_ps(n, _mm512_set1_ps(kLn2Hi), x));
  __m512 q = _mm512_fmadd_ps(_mm512_set1_ps(kExp6), r, _mm512_set1_ps(kExp5));
  q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(kExp4));
  q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(kExp3));
  q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(kExp2));
  const __m512 p = _mm512_add_ps(_mm512_set1_ps(1.0f), _mm512_fmadd_ps(_mm512_mul_ps(r, r), q, r));
  return _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(kSoftmaxFloor), _CMP_GE_OQ), p, n);
}

QGEMM_INLINE __m512i fixed(__m512 e) { return _mm512_cvtps_epi32(_mm512_mul_ps(e, _mm512_set1_ps(kSoftmaxOne))); }

// Eight 64-bit sums + 16 unsigned 32-bit terms.
QGEMM_INLINE __m512i widen_add(__m512i sum, __m512i v) {
  const __m512i low = _mm512_and_si512(v, _mm512_set1_epi64(0xffffffff));
  return _mm512_add_epi64(sum, _mm512_add_epi64(low, _mm512_srli_epi64(v, 32)));
}

QGEMM_INLINE int max_byte(const uint8_t* x, ptrdiff_t n) {
  __m512i most = _mm512_setzero_si512();
  ptrdiff_t i = 0;
  for (; i + 64 <= n; i += 64) most = _mm512_max_epu8(most, _mm512_loadu_si512(x + i));
  if (i < n) most = _mm512_max_epu8(most, _mm512_maskz_loadu_epi8(lanes64(static_cast<int>(n - i)), x + i));
  __m256i h = _mm256_max_epu8(_mm512_castsi512_si256(most), _mm512_extracti64x4_epi64(most, 1));
  __m128i q = _mm_max_epu8(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
  // The smallest word of the complements is the largest byte: a byte and its neighbour first.
  q = _mm_max_epu8(q, _mm_srli_epi16(q, 8));
  q = _mm_minpos_epu16(_mm_xor_si128(_mm_and_si128(q, _mm_set1_epi16(0xff)), _mm_set1_epi16(0xff)));
  return 0xff ^ (_mm_cvtsi128_si32(q) & 0xff);
}

QGEMM_INLINE __m512 dequantize(const softmax_args& g, __m512i q) {
  const __m512i d = _mm512_sub_epi32(q, _mm512_set1_epi32(g.x_zero_point));
  return _mm512_mul_ps(_mm512_set1_ps(g.x_scale), _mm512_cvtepi32_ps(d));
}

template <bool kU8>
QGEMM_INLINE __m512 load(const softmax_args& g, const void* x, ptrdiff_t i, int count) {
  return kU8 ? dequantize(g, bytes16(x, i, count)) : floats16(x, i, count);
}

// The sums in the scratch, and their maximum; false when a value is NaN.
template <bool kU8>
QGEMM_INLINE bool spread(const softmax_args& g, const void* x, const float* mask, float* most) {
  __m512 top = _mm512_set1_ps(-__builtin_inff());
  __mmask16 nan = 0;
  for (ptrdiff_t i = 0; i < g.n; i += 16) {
    const int count = left16(g.n, i);
    __m512 t = load<kU8>(g, x, i, count);
    if (mask) t = _mm512_add_ps(t, floats16(mask, i, count));
    if (count < 16) t = _mm512_mask_blend_ps(lanes16(count), _mm512_set1_ps(-__builtin_inff()), t);
    nan |= _mm512_cmp_ps_mask(t, t, _CMP_UNORD_Q);
    top = _mm512_max_ps(top, t);
    _mm512_store_ps(g.scratch + i, t);
  }
  *most = _mm512_reduce_max_ps(top);
  return nan == 0 && __builtin_isfinite(*most);
}

// exp in the scratch; the row's fixed-point sum. kSpread: the scratch holds the sums with the mask, else x is read.
template <bool kSpread>
QGEMM_INLINE int64_t exponentials(const softmax_args& g, const void* x, float most) {
  const __m512 top = _mm512_set1_ps(most);
  __m512i sum = _mm512_setzero_si512();
  ptrdiff_t i = 0;
  for (; i + 32 <= g.n; i += 32) {
    const __m512 t0 = kSpread ? _mm512_load_ps(g.scratch + i) : load<true>(g, x, i, 16);
    const __m512 t1 = kSpread ? _mm512_load_ps(g.scratch + i + 16) : load<true>(g, x, i + 16, 16);
    const __m512 e0 = softmax_exp(_mm512_sub_ps(t0, top)), e1 = softmax_exp(_mm512_sub_ps(t1, top));
    _mm512_store_ps(g.scratch + i, e0);
    _mm512_store_ps(g.scratch + i + 16, e1);
    sum = widen_add(sum, _mm512_add_epi32(fixed(e0), fixed(e1)));
  }
  for (; i < g.n; i += 16) {
    const int count = left16(g.n, i);
    const __m512 t = kSpread ? _mm512_load_ps(g.scratch + i) : load<true>(g, x, i, count);
    const __m512 e = _mm512_maskz_mov_ps(lanes16(count), softmax_exp(_mm512_sub_ps(t, top)));
    _mm512_store_ps(g.scratch + i, e);
    sum = widen_add(sum, fixed(e));
  }
  return _mm512_reduce_add_epi64(sum);
}

}  // namespace

void softmax_f32_1x16(const softmax_args& g) {
  for (ptrdiff_t row = 0; row < g.rows; ++row) {
    const void* x = static_cast<const char*>(g.x) + row * g.ldx;
    const float* mask = g.mask ? g.mask + row * g.ldmask : nullptr;
    void* out = static_cast<char*>(g.out) + row * g.ldo;
    float inverse = __builtin_nanf(""), most;
    if (g.is_u8 && !mask) {
      most = g.x_scale * static_cast<float>(max_byte(static_cast<const uint8_t*>(x), g.n) - g.x_zero_point);
      inverse = static_cast<float>(double(kSoftmaxOne) / static_cast<double>(exponentials<false>(g, x, most)));
    } else if (g.is_u8 ? spread<true>(g, x, mask, &most) : spread<false>(g, x, mask, &most)) {
      inverse = static_cast<float>(double(kSoftmaxOne) / static_cast<double>(exponentials<true>(g, x, most)));
    }
    const __m512 k = _mm512_set1_ps(inverse);
    ptrdiff_t i = 0;
    if (g.ep->out != OutType::f32)
      for (; i + 64 <= g.n; i += 64) {
        __m512 y[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) y[j] = _mm512_mul_ps(_mm512_load_ps(g.scratch + i + 16 * j), k);
        store_real64(*g.ep, y, out, i);
      }
    for (; i < g.n; i += 16) store_real16(*g.ep, _mm512_mul_ps(_mm512_load_ps(g.scratch + i), k), out, i, left16(g.n, i));
  }
}

}  // namespace avx512vnni
}  // namespace qgemm
