#include "kernels/coefficients.h"
#include "kernels/rows__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {

namespace {

// exp of kN registers of x <= 0, step by step, so that the chains of a dozen operations lie side by side.
template <int kN>
QGEMM_INLINE void softmax_exp(__m512* x) {
  __m512 n[kN], r[kN], q[kN];
#pragma GCC unroll 4
  for (int j = 0; j < kN; ++j)
    n[j] = _mm512_roundscale_ps(_mm512_mul_ps(x[j], _mm512_set1_ps(kLog2E)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#pragma GCC unroll 4
  for (int j = 0; j < kN; ++j)
    r[j] = _mm512_fnmadd_ps(n[j], _mm512_set1_ps(kLn2Lo), _mm512_fnmadd_ps(n[j], _mm512_set1_ps(kLn2Hi), x[j]));
#pragma GCC unroll 4
  for (int j = 0; j < kN; ++j) q[j] = _mm512_fmadd_ps(_mm512_set1_ps(kExp6), r[j], _mm512_set1_ps(kExp5));
#pragma GCC unroll 4
  for (int j = 0; j < kN; ++j) q[j] = _mm512_fmadd_ps(q[j], r[j], _mm512_set1_ps(kExp4));
#pragma GCC unroll 4
  for (int j = 0; j < kN; ++j) q[j] = _mm512_fmadd_ps(q[j], r[j], _mm512_set1_ps(kExp3));
#pragma GCC unroll 4
  for (int j = 0; j < kN; ++j) q[j] = _mm512_fmadd_ps(q[j], r[j], _mm512_set1_ps(kExp2));
#pragma GCC unroll 4
  for (int j = 0; j < kN; ++j) {
    const __m512 p = _mm512_add_ps(_mm512_set1_ps(1.0f), _mm512_fmadd_ps(_mm512_mul_ps(r[j], r[j]), q[j], r[j]));
    x[j] = _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(x[j], _mm512_set1_ps(kSoftmaxFloor), _CMP_GE_OQ), p, n[j]);
  }
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
QGEMM_INLINE bool spread(const softmax_args& g, const void* x, const float* mask, float* most, float* scratch) {
  __m512 top = _mm512_set1_ps(-__builtin_inff());
  __mmask16 nan = 0;
  for (ptrdiff_t i = 0; i < g.n; i += 16) {
    const int count = left16(g.n, i);
    __m512 t = load<kU8>(g, x, i, count);
    if (mask) t = _mm512_add_ps(t, floats16(mask, i, count));
    if (count < 16) t = _mm512_mask_blend_ps(lanes16(count), _mm512_set1_ps(-__builtin_inff()), t);
    nan |= _mm512_cmp_ps_mask(t, t, _CMP_UNORD_Q);
    top = _mm512_max_ps(top, t);
    _mm512_store_ps(scratch + i, t);
  }
  *most = _mm512_reduce_max_ps(top);
  return nan == 0 && __builtin_isfinite(*most);
}

// exp in the scratch; the row's fixed-point sum. kSpread: the scratch holds the sums with the mask, else x is read.
template <bool kSpread>
QGEMM_INLINE int64_t exponentials(const softmax_args& g, const void* x, float most, float* scratch) {
  const __m512 top = _mm512_set1_ps(most);
  __m512i sum = _mm512_setzero_si512();
  ptrdiff_t i = 0;
  for (; i + 64 <= g.n; i += 64) {
    __m512 e[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j)
      e[j] = _mm512_sub_ps(kSpread ? _mm512_load_ps(scratch + i + 16 * j) : load<true>(g, x, i + 16 * j, 16), top);
    softmax_exp<4>(e);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) _mm512_store_ps(scratch + i + 16 * j, e[j]);
    sum = widen_add(sum, _mm512_add_epi32(fixed(e[0]), fixed(e[1])));
    sum = widen_add(sum, _mm512_add_epi32(fixed(e[2]), fixed(e[3])));
  }
  for (; i < g.n; i += 16) {
    const int count = left16(g.n, i);
    __m512 e = _mm512_sub_ps(kSpread ? _mm512_load_ps(scratch + i) : load<true>(g, x, i, count), top);
    softmax_exp<1>(&e);
    e = _mm512_maskz_mov_ps(lanes16(count), e);
    _mm512_store_ps(scratch + i, e);
    sum = widen_add(sum, fixed(e));
  }
  return _mm512_reduce_add_epi64(sum);
}

// exp of a row in the scratch; one over its sum. A row without a finite maximum gives NaN, or infinity over zeros where u8
// numbers overflow.
QGEMM_INLINE float raise(const softmax_args& g, ptrdiff_t row, float* scratch) {
  const void* x = static_cast<const char*>(g.x) + row * g.ldx;
  const float* mask = g.mask ? g.mask + row * g.ldmask : nullptr;
  float most;
  int64_t sum;
  if (g.is_u8 && !mask) {
    most = g.x_scale * static_cast<float>(max_byte(static_cast<const uint8_t*>(x), g.n) - g.x_zero_point);
    sum = exponentials<false>(g, x, most, scratch);
  } else if (g.is_u8 ? spread<true>(g, x, mask, &most, scratch) : spread<false>(g, x, mask, &most, scratch)) {
    sum = exponentials<true>(g, x, most, scratch);
  } else {
    return __builtin_nanf("");
  }
  return static_cast<float>(double(kSoftmaxOne) / static_cast<double>(sum));
}

// Numbers that are not NaN -> the output grid without the zero point.
QGEMM_INLINE __m512i to_grid(const Epilogue& e, __m512 y) {
  const __m512 top = _mm512_set1_ps(static_cast<float>(e.hi - e.zero_point));
  return _mm512_cvtps_epi32(_mm512_min_ps(_mm512_mul_ps(y, _mm512_set1_ps(e.inv_scale)), top));
}

QGEMM_INLINE void store_row(const softmax_args& g, ptrdiff_t row, const float* scratch, float inverse) {
  void* out = static_cast<char*>(g.out) + row * g.ldo;
  const __m512 k = _mm512_set1_ps(inverse);
  ptrdiff_t i = 0;
  if (g.ep->out != OutType::f32 && __builtin_isfinite(inverse) && __builtin_isfinite(g.ep->inv_scale))  // so no product is NaN
    for (; i + 64 <= g.n; i += 64) {
      const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
      __m512i q[4];
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) q[j] = to_grid(*g.ep, _mm512_mul_ps(_mm512_load_ps(scratch + i + 16 * j), k));
      const __m512i b = to_bytes64_inlane(*g.ep, q[0], q[1], q[2], q[3]);
      _mm512_storeu_si512(static_cast<uint8_t*>(out) + i, _mm512_permutexvar_epi32(order, b));
    }
  for (; i < g.n; i += 16) store_real16(*g.ep, _mm512_mul_ps(_mm512_load_ps(scratch + i), k), out, i, left16(g.n, i));
}

}  // namespace

// A row is stored when the next one's exponentials are under way: its own sum and the division take their time.
void softmax_f32_1x16(const softmax_args& g) {
  if (g.rows == 0) return;
  const ptrdiff_t room = (g.n + 63) / 64 * 64;
  float inverse = raise(g, 0, g.scratch);
  for (ptrdiff_t row = 0; row < g.rows; ++row) {
    float* scratch = g.scratch + row % 2 * room;
    const float next = row + 1 < g.rows ? raise(g, row + 1, g.scratch + (row + 1) % 2 * room) : 0.0f;
    store_row(g, row, scratch, inverse);
    inverse = next;
  }
}

}  // namespace avx512vnni
}  // namespace qgemm
