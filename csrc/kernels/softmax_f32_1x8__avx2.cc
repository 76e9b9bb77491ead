#include "kernels/coefficients.h"
#include "kernels/rows__avx2.h"

namespace qgemm {
namespace avx2 {

namespace {

// x <= 0
QGEMM_INLINE __m256 softmax_exp(__m256 x) {
  const __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(kLog2E)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(kLn2Lo), _mm256_fnmadd_ps(n, _mm256_set1_ps(kLn2Hi), x));
  __m256 q = _mm256_fmadd_ps(_mm256_set1_ps(kExp6), r, _mm256_set1_ps(kExp5));
  q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(kExp4));
  q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(kExp3));
  q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(kExp2));
  const __m256 p = _mm256_add_ps(_mm256_set1_ps(1.0f), _mm256_fmadd_ps(_mm256_mul_ps(r, r), q, r));
  // 2^n: above the floor n >= -126, a normal number.
  const __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  return _mm256_and_ps(_mm256_mul_ps(p, _mm256_castsi256_ps(power)), _mm256_cmp_ps(x, _mm256_set1_ps(kSoftmaxFloor), _CMP_GE_OQ));
}

template <bool kU8>
QGEMM_INLINE __m256 load(const softmax_args& g, const void* x, ptrdiff_t i, int count) {
  if (!kU8) return floats8(x, i, count);
  const __m256i d = _mm256_sub_epi32(bytes8(x, i, count), _mm256_set1_epi32(g.x_zero_point));
  return _mm256_mul_ps(_mm256_set1_ps(g.x_scale), _mm256_cvtepi32_ps(d));
}

// Values with the mask added in the scratch, -inf behind them, and their maximum; false when a value is NaN.
template <bool kU8>
QGEMM_INLINE bool spread(const softmax_args& g, const void* x, const float* mask, float* most) {
  const __m256 least = _mm256_set1_ps(-__builtin_inff());
  __m256 top = least, nan = _mm256_setzero_ps();
  for (ptrdiff_t i = 0; i < g.n; i += 8) {
    const int count = left8(g.n, i);
    __m256 t = load<kU8>(g, x, i, count);
    if (mask) t = _mm256_add_ps(t, floats8(mask, i, count));
    if (count < 8) t = _mm256_blendv_ps(least, t, _mm256_castsi256_ps(mask8(count)));
    nan = _mm256_or_ps(nan, _mm256_cmp_ps(t, t, _CMP_UNORD_Q));
    top = _mm256_max_ps(top, t);
    _mm256_store_ps(g.scratch + i, t);
  }
  __m128 m = _mm_max_ps(_mm256_castps256_ps128(top), _mm256_extractf128_ps(top, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  m = _mm_max_ss(m, _mm_movehdup_ps(m));
  *most = _mm_cvtss_f32(m);
  return _mm256_movemask_ps(nan) == 0 && __builtin_isfinite(*most);
}

// exp in the scratch; the row's fixed-point sum.
QGEMM_INLINE int64_t exponentials(const softmax_args& g, float most) {
  const __m256 top = _mm256_set1_ps(most);
  __m256i sum = _mm256_setzero_si256();
  for (ptrdiff_t i = 0; i < g.n; i += 8) {
    const __m256 e = softmax_exp(_mm256_sub_ps(_mm256_load_ps(g.scratch + i), top));
    _mm256_store_ps(g.scratch + i, e);
    const __m256i v = _mm256_cvtps_epi32(_mm256_mul_ps(e, _mm256_set1_ps(kSoftmaxOne)));
    sum = _mm256_add_epi64(sum, _mm256_and_si256(v, _mm256_set1_epi64x(0xffffffff)));
    sum = _mm256_add_epi64(sum, _mm256_srli_epi64(v, 32));
  }
  const __m128i h = _mm_add_epi64(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
  return _mm_cvtsi128_si64(h) + _mm_extract_epi64(h, 1);
}

}  // namespace

void softmax_f32_1x8(const softmax_args& g) {
  for (ptrdiff_t row = 0; row < g.rows; ++row) {
    const void* x = static_cast<const char*>(g.x) + row * g.ldx;
    const float* mask = g.mask ? g.mask + row * g.ldmask : nullptr;
    void* out = static_cast<char*>(g.out) + row * g.ldo;
    float inverse = __builtin_nanf(""), most;
    if (g.is_u8 ? spread<true>(g, x, mask, &most) : spread<false>(g, x, mask, &most))
      inverse = static_cast<float>(double(kSoftmaxOne) / static_cast<double>(exponentials(g, most)));
    const __m256 k = _mm256_set1_ps(inverse);
    for (ptrdiff_t i = 0; i < g.n; i += 8)
      store_real8(*g.ep, _mm256_mul_ps(_mm256_load_ps(g.scratch + i), k), out, i, left8(g.n, i));
  }
}

}  // namespace avx2
}  // namespace qgemm
