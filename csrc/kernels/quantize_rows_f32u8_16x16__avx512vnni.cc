// Sixteen short rows at a time: what a row costs by itself, its reductions and divisions, is then done for all of them at once.
#include "kernels/encoding.h"
#include "kernels/transpose__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {

void minmax_f32_1x16(const minmax_args&);
void quantize_f32_1x16(const quantize_args&);

namespace {

constexpr ptrdiff_t kShort = 384;  // sixteen such rows stay in L1 between the two passes

bool one_row(const quantize_rows_args& g, ptrdiff_t r) {
  const float* x = g.x + r * g.ldx;
  float lo, hi;
  bool finite;
  minmax_f32_1x16({x, g.n, &lo, &hi, &finite});
  if (!finite) return false;
  const DynamicEncoding e = encoding_of(lo, hi, g.symmetric);
  quantize_f32_1x16({x, g.q + r * g.ldq, g.n, 1.0f / e.scale, e.zero_point, 0, 255, 1});
  g.scale[r] = e.scale;
  g.zero_point[r] = e.zero_point;
  return true;
}

// Values of one row on the grid, as integers that only need saturation.
QGEMM_INLINE __m512i on_grid(__m512 x, __m512 inverse, __m512i zero_point) {
  return _mm512_add_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(x, inverse)), zero_point);
}

// Lane r: the least (greatest) of register r.
QGEMM_INLINE __m512 across_min(__m512i* v) {
  transpose16(v);
  __m512 x = _mm512_castsi512_ps(v[0]);
#pragma GCC unroll 15
  for (int i = 1; i < 16; ++i) x = _mm512_min_ps(x, _mm512_castsi512_ps(v[i]));
  return x;
}

QGEMM_INLINE __m512 across_max(__m512i* v) {
  transpose16(v);
  __m512 x = _mm512_castsi512_ps(v[0]);
#pragma GCC unroll 15
  for (int i = 1; i < 16; ++i) x = _mm512_max_ps(x, _mm512_castsi512_ps(v[i]));
  return x;
}

// False when one of the rows holds a NaN or an infinity; nothing is written then.
bool sixteen_rows(const quantize_rows_args& g, ptrdiff_t r0) {
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  alignas(64) float low[16][16], high[16][16];
  __m512i top = _mm512_setzero_si512();
  for (int r = 0; r < 16; ++r) {
    const float* x = g.x + (r0 + r) * g.ldx;
    __m512 lo = _mm512_setzero_ps(), hi = _mm512_setzero_ps();
    ptrdiff_t i = 0;
    for (; i + 16 <= g.n; i += 16) {
      const __m512 v = _mm512_loadu_ps(x + i);
      lo = _mm512_min_ps(v, lo);
      hi = _mm512_max_ps(v, hi);
      top = _mm512_max_epu32(top, _mm512_and_si512(_mm512_castps_si512(v), magnitude));
    }
    if (i < g.n) {
      const __m512 v = _mm512_maskz_loadu_ps(lanes16(static_cast<int>(g.n - i)), x + i);
      lo = _mm512_min_ps(v, lo);
      hi = _mm512_max_ps(v, hi);
      top = _mm512_max_epu32(top, _mm512_and_si512(_mm512_castps_si512(v), magnitude));
    }
    _mm512_store_ps(low[r], lo);
    _mm512_store_ps(high[r], hi);
  }
  if (_mm512_cmpge_epu32_mask(top, _mm512_set1_epi32(0x7f800000))) return false;

  __m512i v[16];
#pragma GCC unroll 16
  for (int r = 0; r < 16; ++r) v[r] = _mm512_load_si512(low[r]);
  const __m512 lo = across_min(v);
#pragma GCC unroll 16
  for (int r = 0; r < 16; ++r) v[r] = _mm512_load_si512(high[r]);
  const __m512 hi = across_max(v);

  // As encoding_of, a row a lane.
  const __m512 zero = _mm512_setzero_ps(), negated = _mm512_sub_ps(zero, lo);
  __m512 scale;
  __m512i zero_point = _mm512_set1_epi32(128);
  if (g.symmetric) {
    scale = _mm512_div_ps(_mm512_max_ps(negated, hi), _mm512_set1_ps(127.0f));
    scale = _mm512_max_ps(scale, _mm512_set1_ps(FLT_MIN));
  } else {
    const __m512 most = _mm512_set1_ps(255.0f), span = _mm512_sub_ps(hi, lo);
    scale = _mm512_div_ps(span, most);
    const __mmask16 wide = _mm512_cmp_ps_mask(scale, _mm512_set1_ps(FLT_MAX), _CMP_GT_OQ);
    scale = _mm512_mask_sub_ps(scale, wide, _mm512_div_ps(hi, most), _mm512_div_ps(lo, most));
    scale = _mm512_max_ps(scale, _mm512_set1_ps(FLT_MIN));
    zero_point = _mm512_cvtps_epi32(_mm512_min_ps(_mm512_div_ps(negated, scale), most));
  }
  const __mmask16 zeros = _mm512_cmp_ps_mask(lo, zero, _CMP_EQ_OQ) & _mm512_cmp_ps_mask(hi, zero, _CMP_EQ_OQ);
  scale = _mm512_mask_mov_ps(scale, zeros, _mm512_set1_ps(1.0f));
  alignas(64) float inverses[16];
  alignas(64) int32_t zero_points[16];
  _mm512_store_ps(inverses, _mm512_div_ps(_mm512_set1_ps(1.0f), scale));
  _mm512_store_si512(zero_points, zero_point);
  _mm512_storeu_ps(g.scale + r0, scale);
  _mm512_storeu_si512(g.zero_point + r0, zero_point);

  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  for (int r = 0; r < 16; ++r) {
    const float* x = g.x + (r0 + r) * g.ldx;
    uint8_t* q = g.q + (r0 + r) * g.ldq;
    const __m512 inverse = _mm512_set1_ps(inverses[r]);
    const __m512i zp = _mm512_set1_epi32(zero_points[r]);
    ptrdiff_t i = 0;
    for (; i + 64 <= g.n; i += 64) {
      const __m512i a = on_grid(_mm512_loadu_ps(x + i), inverse, zp), b = on_grid(_mm512_loadu_ps(x + i + 16), inverse, zp);
      const __m512i c = on_grid(_mm512_loadu_ps(x + i + 32), inverse, zp), d = on_grid(_mm512_loadu_ps(x + i + 48), inverse, zp);
      const __m512i bytes = _mm512_packus_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d));
      _mm512_storeu_si512(q + i, _mm512_permutexvar_epi32(order, bytes));
    }
    for (; i < g.n; i += 16) {
      const __mmask16 k = lanes16(g.n - i < 16 ? static_cast<int>(g.n - i) : 16);
      const __m512i y = on_grid(_mm512_maskz_loadu_ps(k, x + i), inverse, zp);
      _mm512_mask_cvtusepi32_storeu_epi8(q + i, k, _mm512_max_epi32(y, _mm512_setzero_si512()));
    }
  }
  return true;
}

}  // namespace

void quantize_rows_f32u8_16x16(const quantize_rows_args& g) {
  *g.bad = -1;
  ptrdiff_t r = 0;
  if (g.n > 0 && g.n <= kShort)
    while (r + 16 <= g.rows && sixteen_rows(g, r)) r += 16;
  for (; r < g.rows; ++r) {
    if (!one_row(g, r)) {
      *g.bad = r;
      return;
    }
  }
}

}  // namespace avx512vnni
}  // namespace qgemm
