// Depthwise convolution, 64 channels a step. Four taps are interleaved so that a dword holds four taps of one channel: two levels
// of in-lane unpacks, 8 shuffles for 4 taps of 64 channels. One vpdpbusd then multiplies four live bytes a lane, where widening
// each tap to dwords would use one in four. The packs of the epilogue are in-lane too and undo the order, so bytes are stored
// with no permute.
#include "kernels/epilogue__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {
namespace {

template <bool kMasked>
QGEMM_INLINE __m512i load64(const uint8_t* p, __mmask64 k) {
  return kMasked ? _mm512_maskz_loadu_epi8(k, p) : _mm512_loadu_si512(p);
}

// v[j], lane i: taps 0..3 of channels 16i + 4j + 0..3; absent taps are 0.
template <int kTaps, bool kMasked>
QGEMM_INLINE void interleave(const uint8_t* const* a, ptrdiff_t offset, __mmask64 k, __m512i* v) {
  const __m512i zero = _mm512_setzero_si512();
  const __m512i t0 = load64<kMasked>(a[0] + offset, k);
  const __m512i t1 = kTaps > 1 ? load64<kMasked>(a[1] + offset, k) : zero;
  const __m512i lo01 = _mm512_unpacklo_epi8(t0, t1), hi01 = _mm512_unpackhi_epi8(t0, t1);
  __m512i lo23 = zero, hi23 = zero;
  if (kTaps > 2) {
    const __m512i t2 = load64<kMasked>(a[2] + offset, k);
    const __m512i t3 = kTaps > 3 ? load64<kMasked>(a[3] + offset, k) : zero;
    lo23 = _mm512_unpacklo_epi8(t2, t3);
    hi23 = _mm512_unpackhi_epi8(t2, t3);
  }
  v[0] = _mm512_unpacklo_epi16(lo01, lo23);
  v[1] = _mm512_unpackhi_epi16(lo01, lo23);
  v[2] = _mm512_unpacklo_epi16(hi01, hi23);
  v[3] = _mm512_unpackhi_epi16(hi01, hi23);
}

template <int kTaps, bool kMasked>
QGEMM_INLINE void accumulate(const uint8_t* const* a, ptrdiff_t offset, __mmask64 k, const __m512i* w, __m512i* acc) {
  __m512i v[4];
  interleave<kTaps, kMasked>(a, offset, k, v);
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) acc[j] = _mm512_dpbusd_epi32(acc[j], v[j], w[j]);
}

template <bool kMasked>
QGEMM_INLINE void accumulate_from(const uint8_t* const* a, int taps, ptrdiff_t offset, __mmask64 k, const int8_t* b,
                                  __m512i* acc) {
  __m512i w[4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) w[j] = _mm512_loadu_si512(b + 64 * j);
  switch (taps) {
    case 1:
      return accumulate<1, kMasked>(a, offset, k, w, acc);
    case 2:
      return accumulate<2, kMasked>(a, offset, k, w, acc);
    case 3:
      return accumulate<3, kMasked>(a, offset, k, w, acc);
    default:
      return accumulate<4, kMasked>(a, offset, k, w, acc);
  }
}

// Lane i of register j goes to lane j of register i: natural channel order.
QGEMM_INLINE void transpose_lanes(__m512i* v) {
  const __m512i a = _mm512_shuffle_i32x4(v[0], v[1], 0x44), b = _mm512_shuffle_i32x4(v[0], v[1], 0xee);
  const __m512i c = _mm512_shuffle_i32x4(v[2], v[3], 0x44), d = _mm512_shuffle_i32x4(v[2], v[3], 0xee);
  v[0] = _mm512_shuffle_i32x4(a, c, 0x88);
  v[1] = _mm512_shuffle_i32x4(a, c, 0xdd);
  v[2] = _mm512_shuffle_i32x4(b, d, 0x88);
  v[3] = _mm512_shuffle_i32x4(b, d, 0xdd);
}

struct Out {
  const float *scale, *bias;
  __m512 inv_scale, top, f_lo, f_hi;
  __m512i zero_point, lo, flip;
};

// 64 corrected accumulators to u8 or s8 (flip: 0x80 in each byte).
template <bool kMasked>
QGEMM_INLINE void store_bytes64(const Out& o, const __m512i* acc, __mmask64 k, void* c) {
  __m512i q[4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m512 y =
        _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[j]), _mm512_loadu_ps(o.scale + 16 * j), _mm512_loadu_ps(o.bias + 16 * j));
    q[j] = _mm512_cvtps_epi32(_mm512_min_ps(_mm512_mul_ps(y, o.inv_scale), o.top));
  }
  const __m512i w01 = _mm512_adds_epi16(_mm512_packs_epi32(q[0], q[1]), o.zero_point);
  const __m512i w23 = _mm512_adds_epi16(_mm512_packs_epi32(q[2], q[3]), o.zero_point);
  const __m512i bytes = _mm512_xor_si512(_mm512_max_epu8(_mm512_packus_epi16(w01, w23), o.lo), o.flip);
  if (kMasked)
    _mm512_mask_storeu_epi8(c, k, bytes);
  else
    _mm512_storeu_si512(c, bytes);
}

// 64 corrected accumulators to fp32 or s32.
QGEMM_INLINE void store_words64(const Out& o, OutType out, __m512i* acc, int channels, void* c) {
  if (out == OutType::f32) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const __m512 y =
          _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[j]), _mm512_loadu_ps(o.scale + 16 * j), _mm512_loadu_ps(o.bias + 16 * j));
      acc[j] = _mm512_castps_si512(_mm512_min_ps(_mm512_max_ps(y, o.f_lo), o.f_hi));
    }
  }
  transpose_lanes(acc);
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j)
    if (channels > 16 * j) _mm512_mask_storeu_epi32(static_cast<int32_t*>(c) + 16 * j, lanes16(valid16(channels, j)), acc[j]);
}

QGEMM_INLINE Out make_out(const Epilogue& e, int col) {
  Out o;
  o.scale = e.scale + col;
  o.bias = e.bias + col;
  o.inv_scale = _mm512_set1_ps(e.inv_scale);
  o.top = _mm512_set1_ps(static_cast<float>(e.hi - e.zero_point));
  o.f_lo = _mm512_set1_ps(e.f_lo);
  o.f_hi = _mm512_set1_ps(e.f_hi);
  o.zero_point = _mm512_set1_epi16(static_cast<short>(e.zero_point));
  o.lo = _mm512_set1_epi8(static_cast<char>(e.lo));
  o.flip = _mm512_set1_epi8(e.out == OutType::s8 ? static_cast<char>(0x80) : 0);
  return o;
}

// 3x3, the common case: 9 taps are 12 weight registers, which stay loaded for the whole run of pixels.
template <bool kMasked>
void run9(const depthwise_args& g) {
  const Out o = make_out(*g.ep, g.col);
  const __mmask64 k = lanes64(g.channels);
  const int32_t* correction = g.ep->correction + g.col;
  const uint8_t* const* a = g.a;
  __m512i w[12];
#pragma GCC unroll 12
  for (int j = 0; j < 12; ++j) w[j] = _mm512_loadu_si512(g.b + 64 * j);
  char* c = static_cast<char*>(g.c);
  for (ptrdiff_t offset = 0, i = 0; i < g.pixels; ++i, offset += g.step, c += g.ldc) {
    __m512i acc[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) acc[j] = _mm512_loadu_si512(correction + 16 * j);
    accumulate<4, kMasked>(a, offset, k, w, acc);
    accumulate<4, kMasked>(a + 4, offset, k, w + 4, acc);
    accumulate<1, kMasked>(a + 8, offset, k, w + 8, acc);
    store_bytes64<kMasked>(o, acc, k, c);
  }
}

template <bool kMasked>
void run(const depthwise_args& g) {
  const Epilogue& e = *g.ep;
  const Out o = make_out(e, g.col);
  const OutType out = e.out;
  const __mmask64 k = lanes64(g.channels);
  char* c = static_cast<char*>(g.c);
  for (ptrdiff_t offset = 0, i = 0; i < g.pixels; ++i, offset += g.step, c += g.ldc) {
    __m512i acc[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) acc[j] = _mm512_loadu_si512(e.correction + g.col + 16 * j);
    const int8_t* b = g.b;
    int t = 0;
    for (; t + 4 <= g.taps; t += 4, b += 256) accumulate_from<kMasked>(g.a + t, 4, offset, k, b, acc);
    if (t < g.taps) accumulate_from<kMasked>(g.a + t, g.taps - t, offset, k, b, acc);
    if (out == OutType::u8 || out == OutType::s8)
      store_bytes64<kMasked>(o, acc, k, c);
    else
      store_words64(o, out, acc, g.channels, c);
  }
}

}  // namespace

void depthwise_u8s8_1x64(const depthwise_args& g) {
  const bool masked = g.channels < 64;
  const bool bytes = g.ep->out == OutType::u8 || g.ep->out == OutType::s8;
  if (g.taps == 9 && bytes)
    masked ? run9<true>(g) : run9<false>(g);
  else
    masked ? run<true>(g) : run<false>(g);
}

}  // namespace avx512vnni
}  // namespace qgemm
