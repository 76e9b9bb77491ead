#include "kernels/rows__avx2.h"

namespace qgemm {
namespace avx2 {

namespace {

// Bytes whose squares fit the 32-bit lanes.
constexpr ptrdiff_t kChunk = ptrdiff_t(1) << 16;

QGEMM_INLINE int64_t sum64(__m256i v) {
  const __m128i h = _mm_add_epi64(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  return _mm_cvtsi128_si64(h) + _mm_extract_epi64(h, 1);
}

QGEMM_INLINE void byte_sums(const uint8_t* x, ptrdiff_t n, int64_t* sum, int64_t* squares) {
  const __m256i zero = _mm256_setzero_si256();
  *sum = *squares = 0;
  for (ptrdiff_t first = 0; first < n; first += kChunk) {
    const ptrdiff_t end = n - first < kChunk ? n : first + kChunk;
    __m256i s = zero, s2 = zero;
    for (ptrdiff_t i = first; i < end; i += 32) {
      __m256i q;
      if (end - i >= 32) {
        q = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i));
      } else {
        uint8_t rest[32] = {};
        memcpy(rest, x + i, static_cast<size_t>(end - i));
        q = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rest));
      }
      const __m256i lo = _mm256_unpacklo_epi8(q, zero), hi = _mm256_unpackhi_epi8(q, zero);
      s = _mm256_add_epi64(s, _mm256_sad_epu8(q, zero));
      s2 = _mm256_add_epi32(s2, _mm256_add_epi32(_mm256_madd_epi16(lo, lo), _mm256_madd_epi16(hi, hi)));
    }
    *sum += sum64(s);
    *squares += sum64(_mm256_add_epi64(_mm256_and_si256(s2, _mm256_set1_epi64x(0xffffffff)), _mm256_srli_epi64(s2, 32)));
  }
}

// Lane j of register i is lane 4 * i + j of the definition's fp64 sums.
struct Lanes {
  __m256d v[4];
};

QGEMM_INLINE double sum_lanes(const Lanes& l) {
  const __m256d h = _mm256_add_pd(_mm256_add_pd(l.v[0], l.v[2]), _mm256_add_pd(l.v[1], l.v[3]));
  const __m128d q = _mm_add_pd(_mm256_castpd256_pd128(h), _mm256_extractf128_pd(h, 1));
  return _mm_cvtsd_f64(q) + _mm_cvtsd_f64(_mm_unpackhi_pd(q, q));
}

QGEMM_INLINE __m256d low4(__m256 x) { return _mm256_cvtps_pd(_mm256_castps256_ps128(x)); }
QGEMM_INLINE __m256d high4(__m256 x) { return _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1)); }

struct Scale {
  __m256 m, c, a, rest;  // u8: d = fma(q, m, c), xhat = d * a. fp32: d = x - m, xhat = fma(d, a, rest)
};

template <bool kU8>
QGEMM_INLINE void finish(const norm_args& g, const Scale& k, const void* x, void* out) {
  for (ptrdiff_t i = 0; i < g.n; i += 8) {
    const int count = left8(g.n, i);
    const __m256 xhat = kU8 ? _mm256_mul_ps(_mm256_fmadd_ps(_mm256_cvtepi32_ps(bytes8(x, i, count)), k.m, k.c), k.a)
                            : _mm256_fmadd_ps(_mm256_sub_ps(floats8(x, i, count), k.m), k.a, k.rest);
    store_real8(*g.ep, _mm256_fmadd_ps(xhat, floats8(g.gamma, i, count), floats8(g.beta, i, count)), out, i, count);
  }
}

void bytes_row(const norm_args& g, const uint8_t* x, void* out) {
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
  finish<true>(g, {_mm256_set1_ps(m), _mm256_set1_ps(c), _mm256_set1_ps(a), _mm256_setzero_ps()}, x, out);
}

void floats_row(const norm_args& g, const float* x, void* out) {
  const double n = static_cast<double>(g.n);
  const __m256d zero = _mm256_setzero_pd();
  double mean = 0;
  if (g.center) {
    Lanes sum = {{zero, zero, zero, zero}};
    for (ptrdiff_t i = 0; i < g.n; i += 8) {
      const __m256 v = floats8(x, i, left8(g.n, i));
      __m256d* lane = sum.v + (i % 16 ? 2 : 0);
      lane[0] = _mm256_add_pd(lane[0], low4(v));
      lane[1] = _mm256_add_pd(lane[1], high4(v));
    }
    mean = sum_lanes(sum) / n;
  }
  const float m = static_cast<float>(mean);
  const __m256 middle = _mm256_set1_ps(m);
  Lanes squares = {{zero, zero, zero, zero}};
  for (ptrdiff_t i = 0; i < g.n; i += 8) {
    const int count = left8(g.n, i);
    const __m256 d = _mm256_and_ps(_mm256_sub_ps(floats8(x, i, count), middle), _mm256_castsi256_ps(mask8(count)));
    const __m256d low = low4(d), high = high4(d);
    __m256d* lane = squares.v + (i % 16 ? 2 : 0);
    lane[0] = _mm256_fmadd_pd(low, low, lane[0]);
    lane[1] = _mm256_fmadd_pd(high, high, lane[1]);
  }
  const double rest = mean - static_cast<double>(m);
  double v = sum_lanes(squares) / n - rest * rest;
  v = v < 0 ? 0 : v;
  const double a = 1.0 / __builtin_sqrt(v + g.epsilon);
  finish<false>(
      g, {middle, _mm256_setzero_ps(), _mm256_set1_ps(static_cast<float>(a)), _mm256_set1_ps(static_cast<float>(-rest * a))}, x,
      out);
}

}  // namespace

void norm_f32_1x8(const norm_args& g) {
  for (ptrdiff_t row = 0; row < g.rows; ++row) {
    const char* x = static_cast<const char*>(g.x) + row * g.ldx;
    void* out = static_cast<char*>(g.out) + row * g.ldo;
    if (g.is_u8)
      bytes_row(g, reinterpret_cast<const uint8_t*>(x), out);
    else
      floats_row(g, reinterpret_cast<const float*>(x), out);
  }
}

}  // namespace avx2
}  // namespace qgemm
