#include "kernels/rows__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {

namespace {

// Bytes whose squares, summed by fours, fit the 32-bit lanes.
constexpr ptrdiff_t kChunk = ptrdiff_t(1) << 18;

QGEMM_INLINE int64_t sum32(__m512i v) {  // of unsigned lanes
  const __m512i low = _mm512_and_si512(v, _mm512_set1_epi64(0xffffffff));
  return _mm512_reduce_add_epi64(_mm512_add_epi64(low, _mm512_srli_epi64(v, 32)));
}

QGEMM_INLINE void byte_sums(const uint8_t* x, ptrdiff_t n, int64_t* sum, int64_t* squares) {
  const __m512i zero = _mm512_setzero_si512();
  *sum = *squares = 0;
  for (ptrdiff_t first = 0; first < n; first += kChunk) {
    const ptrdiff_t end = n - first < kChunk ? n : first + kChunk;
    __m512i s = zero, s2 = zero;
    for (ptrdiff_t i = first; i < end; i += 64) {
      const __m512i q =
          end - i >= 64 ? _mm512_loadu_si512(x + i) : _mm512_maskz_loadu_epi8(lanes64(static_cast<int>(end - i)), x + i);
      const __m512i lo = _mm512_unpacklo_epi8(q, zero), hi = _mm512_unpackhi_epi8(q, zero);
      s = _mm512_add_epi64(s, _mm512_sad_epu8(q, zero));
      s2 = _mm512_dpwssd_epi32(_mm512_dpwssd_epi32(s2, lo, lo), hi, hi);
    }
    *sum += _mm512_reduce_add_epi64(s);
    *squares += sum32(s2);
  }
}

// Lanes 0..7 and 8..15 of the definition's fp64 sums.
struct Lanes {
  __m512d low, high;
};

QGEMM_INLINE double sum_lanes(const Lanes& l) {
  const __m512d v = _mm512_add_pd(l.low, l.high);
  const __m256d h = _mm256_add_pd(_mm512_castpd512_pd256(v), _mm512_extractf64x4_pd(v, 1));
  const __m128d q = _mm_add_pd(_mm256_castpd256_pd128(h), _mm256_extractf128_pd(h, 1));
  return _mm_cvtsd_f64(q) + _mm_cvtsd_f64(_mm_unpackhi_pd(q, q));
}

QGEMM_INLINE __m512d low8(__m512 x) { return _mm512_cvtps_pd(_mm512_castps512_ps256(x)); }
QGEMM_INLINE __m512d high8(__m512 x) { return _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1)); }

struct Scale {
  __m512 m, c, a, rest;  // u8: d = fma(q, m, c), xhat = d * a. fp32: d = x - m, xhat = fma(d, a, rest)
};

template <bool kU8>
QGEMM_INLINE __m512 value(const norm_args& g, const Scale& k, const void* x, ptrdiff_t i, int count) {
  __m512 xhat;
  if (kU8) {
    xhat = _mm512_mul_ps(_mm512_fmadd_ps(_mm512_cvtepi32_ps(bytes16(x, i, count)), k.m, k.c), k.a);
  } else {
    xhat = _mm512_fmadd_ps(_mm512_sub_ps(floats16(x, i, count), k.m), k.a, k.rest);
  }
  return _mm512_fmadd_ps(xhat, floats16(g.gamma, i, count), floats16(g.beta, i, count));
}

template <bool kU8>
QGEMM_INLINE void finish(const norm_args& g, const Scale& k, const void* x, void* out) {
  ptrdiff_t i = 0;
  if (g.ep->out != OutType::f32)
    for (; i + 64 <= g.n; i += 64) {
      __m512 y[4];
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) y[j] = value<kU8>(g, k, x, i + 16 * j, 16);
      store_real64(*g.ep, y, out, i);
    }
  for (; i < g.n; i += 16) {
    const int count = left16(g.n, i);
    store_real16(*g.ep, value<kU8>(g, k, x, i, count), out, i, count);
  }
}

Scale scale_of(const norm_args& g, const uint8_t* x) {
  const double n = static_cast<double>(g.n), s = g.x_scale;
  int64_t sum, squares;
  byte_sums(x, g.n, &sum, &squares);
  float a, m, c;
  if (g.center) {
    const double v = s * s * (static_cast<double>(g.n * squares - sum * sum) / (n * n));
    a = static_cast<float>(s / (n * __builtin_sqrt(v + g.epsilon)));
    m = static_cast<float>(g.n);
    c = static_cast<float>(-sum);
  } else {
    const int64_t z = g.x_zero_point;
    const double v = s * s * (static_cast<double>(squares - 2 * z * sum + g.n * z * z) / n);
    a = static_cast<float>(s / __builtin_sqrt(v + g.epsilon));
    m = 1.0f;
    c = static_cast<float>(-g.x_zero_point);
  }
  return {_mm512_set1_ps(m), _mm512_set1_ps(c), _mm512_set1_ps(a), _mm512_setzero_ps()};
}

Scale scale_of(const norm_args& g, const float* x) {
  const double n = static_cast<double>(g.n);
  double mean = 0;
  if (g.center) {
    Lanes sum = {_mm512_setzero_pd(), _mm512_setzero_pd()};
    for (ptrdiff_t i = 0; i < g.n; i += 16) {
      const __m512 v = floats16(x, i, left16(g.n, i));
      sum.low = _mm512_add_pd(sum.low, low8(v));
      sum.high = _mm512_add_pd(sum.high, high8(v));
    }
    mean = sum_lanes(sum) / n;
  }
  const float m = static_cast<float>(mean);
  const __m512 middle = _mm512_set1_ps(m);
  Lanes squares = {_mm512_setzero_pd(), _mm512_setzero_pd()};
  for (ptrdiff_t i = 0; i < g.n; i += 16) {
    const int count = left16(g.n, i);
    const __m512 d = _mm512_maskz_sub_ps(lanes16(count), floats16(x, i, count), middle);
    const __m512d low = low8(d), high = high8(d);
    squares.low = _mm512_fmadd_pd(low, low, squares.low);
    squares.high = _mm512_fmadd_pd(high, high, squares.high);
  }
  const double rest = mean - static_cast<double>(m);
  double v = sum_lanes(squares) / n - rest * rest;
  v = v < 0 ? 0 : v;
  const double a = 1.0 / __builtin_sqrt(v + g.epsilon);
  return {middle, _mm512_setzero_ps(), _mm512_set1_ps(static_cast<float>(a)), _mm512_set1_ps(static_cast<float>(-rest * a))};
}

// A row is stored when the next one's sums are under way: the root and the division of each take their time.
template <class T>
void rows(const norm_args& g) {
  const char* x = static_cast<const char*>(g.x);
  if (g.rows == 0) return;
  Scale next = scale_of(g, reinterpret_cast<const T*>(x));
  for (ptrdiff_t row = 0; row < g.rows; ++row) {
    const Scale k = next;
    const char* after = x + g.ldx;
    if (row + 1 < g.rows) next = scale_of(g, reinterpret_cast<const T*>(after));
    finish<sizeof(T) == 1>(g, k, x, static_cast<char*>(g.out) + row * g.ldo);
    x = after;
  }
}

}  // namespace

void norm_f32_1x16(const norm_args& g) {
  if (g.is_u8)
    rows<uint8_t>(g);
  else
    rows<float>(g);
}

}  // namespace avx512vnni
}  // namespace qgemm
