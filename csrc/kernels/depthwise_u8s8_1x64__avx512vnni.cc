// Depthwise convolution, 64 channels a step. Four taps are interleaved so that a dword holds four taps of one channel: two levels
// of in-lane unpacks, 8 shuffles for 4 taps of 64 channels. One vpdpbusd then multiplies four live bytes a lane, where widening
// each tap to dwords would use one in four. The packs of the epilogue are in-lane too and undo the order, so bytes are stored
// with no permute.
#include "kernels/epilogue__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {
namespace {

// One tap of kPixels pixels, `step` bytes apart, 64 / kPixels channels each.
template <int kPixels, bool kMasked>
QGEMM_INLINE __m512i load64(const uint8_t* p, ptrdiff_t step, __mmask64 k) {
  if (kPixels == 1) return kMasked ? _mm512_maskz_loadu_epi8(k, p) : _mm512_loadu_si512(p);
  if (kPixels == 2) {
    const __mmask32 m = static_cast<__mmask32>(k);
    const __m256i a = kMasked ? _mm256_maskz_loadu_epi8(m, p) : _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    p += step;
    const __m256i b = kMasked ? _mm256_maskz_loadu_epi8(m, p) : _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_inserti64x4(_mm512_castsi256_si512(a), b, 1);
  }
  const __mmask16 m = static_cast<__mmask16>(k);
  __m128i v[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i, p += step)
    v[i] = kMasked ? _mm_maskz_loadu_epi8(m, p) : _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  const __m256i lo = _mm256_inserti128_si256(_mm256_castsi128_si256(v[0]), v[1], 1);
  const __m256i hi = _mm256_inserti128_si256(_mm256_castsi128_si256(v[2]), v[3], 1);
  return _mm512_inserti64x4(_mm512_castsi256_si512(lo), hi, 1);
}

// v[j], lane i: taps 0..3 of channels 16i + 4j + 0..3; absent taps are 0.
template <int kTaps, int kPixels, bool kMasked>
QGEMM_INLINE void interleave(const uint8_t* const* a, ptrdiff_t offset, ptrdiff_t step, __mmask64 k, __m512i* v) {
  const __m512i zero = _mm512_setzero_si512();
  const __m512i t0 = load64<kPixels, kMasked>(a[0] + offset, step, k);
  const __m512i t1 = kTaps > 1 ? load64<kPixels, kMasked>(a[1] + offset, step, k) : zero;
  const __m512i lo01 = _mm512_unpacklo_epi8(t0, t1), hi01 = _mm512_unpackhi_epi8(t0, t1);
  __m512i lo23 = zero, hi23 = zero;
  if (kTaps > 2) {
    const __m512i t2 = load64<kPixels, kMasked>(a[2] + offset, step, k);
    const __m512i t3 = kTaps > 3 ? load64<kPixels, kMasked>(a[3] + offset, step, k) : zero;
    lo23 = _mm512_unpacklo_epi8(t2, t3);
    hi23 = _mm512_unpackhi_epi8(t2, t3);
  }
  v[0] = _mm512_unpacklo_epi16(lo01, lo23);
  v[1] = _mm512_unpackhi_epi16(lo01, lo23);
  v[2] = _mm512_unpacklo_epi16(hi01, hi23);
  v[3] = _mm512_unpackhi_epi16(hi01, hi23);
}

template <int kTaps, int kPixels, bool kMasked>
QGEMM_INLINE void accumulate(const uint8_t* const* a, ptrdiff_t offset, ptrdiff_t step, __mmask64 k, const __m512i* w,
                             __m512i* acc) {
  __m512i v[4];
  interleave<kTaps, kPixels, kMasked>(a, offset, step, k, v);
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
      return accumulate<1, 1, kMasked>(a, offset, 0, k, w, acc);
    case 2:
      return accumulate<2, 1, kMasked>(a, offset, 0, k, w, acc);
    case 3:
      return accumulate<3, 1, kMasked>(a, offset, 0, k, w, acc);
    default:
      return accumulate<4, 1, kMasked>(a, offset, 0, k, w, acc);
  }
}

struct Out {
  const float *scale, *bias;
  __m512 inv_scale, top, f_lo, f_hi;
  __m512i zero_point, lo, flip;
};

// 64 corrected accumulators to u8 or s8 (flip: 0x80 in each byte), in kPixels pieces `ldc` bytes apart.
template <int kPixels, bool kMasked>
QGEMM_INLINE void store_bytes64(const Out& o, const __m512i* acc, __mmask64 k, char* c, ptrdiff_t ldc) {
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
  if (kPixels == 1) {
    if (kMasked)
      _mm512_mask_storeu_epi8(c, k, bytes);
    else
      _mm512_storeu_si512(c, bytes);
  } else if (kPixels == 2) {
    const __m256i a = _mm512_castsi512_si256(bytes), b = _mm512_extracti64x4_epi64(bytes, 1);
    if (kMasked) {
      _mm256_mask_storeu_epi8(c, static_cast<__mmask32>(k), a);
      _mm256_mask_storeu_epi8(c + ldc, static_cast<__mmask32>(k), b);
    } else {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(c), a);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(c + ldc), b);
    }
  } else {
    const __m128i v[4] = {_mm512_castsi512_si128(bytes), _mm512_extracti32x4_epi32(bytes, 1), _mm512_extracti32x4_epi32(bytes, 2),
                          _mm512_extracti32x4_epi32(bytes, 3)};
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      if (kMasked)
        _mm_mask_storeu_epi8(c + i * ldc, static_cast<__mmask16>(k), v[i]);
      else
        _mm_storeu_si128(reinterpret_cast<__m128i*>(c + i * ldc), v[i]);
    }
  }
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

// The first 64 / kPixels positions of each register in every lane group: what pixels side by side all use.
template <int kPixels>
QGEMM_INLINE __m512i repeat(const void* p) {
  const __m512i v = _mm512_loadu_si512(p);
  return kPixels == 1 ? v : _mm512_maskz_shuffle_i32x4(0xffff, v, v, kPixels == 2 ? 0x44 : 0x00);
}

// The block's 64 entries of the epilogue's arrays.
struct Columns {
  const int32_t* correction;
  const float *scale, *bias;
};

// 3x3, the common case, from pixel `first` in steps of kPixels: 9 taps are 12 weight registers, which stay loaded for the whole
// run. Returns the first pixel not done. Not inlined, so that gcc takes the three column pointers as they are: it would otherwise
// keep the sums of their parts in general registers that the loop needs.
template <int kPixels, bool kMasked>
__attribute__((noinline)) int run9(const depthwise_args& g, Columns columns, int first) {
  Out o = make_out(*g.ep, 0);
  o.scale = columns.scale;
  o.bias = columns.bias;
  const __mmask64 k = lanes64(g.channels);
  const int32_t* correction = columns.correction;
  const uint8_t* const* a = g.a;
  __m512i w[12];
#pragma GCC unroll 12
  for (int j = 0; j < 12; ++j) w[j] = repeat<kPixels>(g.b + 64 * j);
  char* c = static_cast<char*>(g.c) + first * g.ldc;
  ptrdiff_t offset = first * g.step;
  int i = first;
  // g.step and g.ldc are read again for each pixel: that is cheaper than the general registers that would hold them.
  for (; i + kPixels <= g.pixels; i += kPixels, offset += kPixels * g.step, c += kPixels * g.ldc) {
    __m512i acc[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) acc[j] = _mm512_loadu_si512(correction + 16 * j);
    accumulate<4, kPixels, kMasked>(a, offset, g.step, k, w, acc);
    accumulate<4, kPixels, kMasked>(a + 4, offset, g.step, k, w + 4, acc);
    accumulate<1, kPixels, kMasked>(a + 8, offset, g.step, k, w + 8, acc);
    store_bytes64<kPixels, kMasked>(o, acc, k, c, g.ldc);
  }
  return i;
}

// The same with the columns of one pixel repeated for each of kPixels.
template <int kPixels, bool kMasked>
int run9_beside(const depthwise_args& g, const Columns& c) {
  int32_t repeated[3][64] __attribute__((aligned(64)));
#pragma GCC unroll 4
  for (int j = 0; j < 64; j += 16) {
    _mm512_store_si512(repeated[0] + j, repeat<kPixels>(c.correction + j));
    _mm512_store_si512(repeated[1] + j, repeat<kPixels>(c.scale + j));
    _mm512_store_si512(repeated[2] + j, repeat<kPixels>(c.bias + j));
  }
  return run9<kPixels, kMasked>(
      g, {repeated[0], reinterpret_cast<const float*>(repeated[1]), reinterpret_cast<const float*>(repeated[2])}, 0);
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
      store_bytes64<1, kMasked>(o, acc, k, c, 0);
    else
      store_words64(o, out, acc, g.channels, c);
  }
}

}  // namespace

void depthwise_u8s8_1x64(const depthwise_args& g) {
  const Epilogue& e = *g.ep;
  const Columns c{e.correction + g.col, e.scale + g.col, e.bias + g.col};
  const int n = g.channels;
  if (g.taps != 9 || (e.out != OutType::u8 && e.out != OutType::s8)) {
    n < 64 ? run<true>(g) : run<false>(g);
  } else if (n > 32) {
    n < 64 ? run9<1, true>(g, c, 0) : run9<1, false>(g, c, 0);
  } else {
    int done = 0;
    if (n > 16 && g.pixels > 1) done = n < 32 ? run9_beside<2, true>(g, c) : run9_beside<2, false>(g, c);
    if (n <= 16 && g.pixels > 3) done = n < 16 ? run9_beside<4, true>(g, c) : run9_beside<4, false>(g, c);
    if (done < g.pixels) run9<1, true>(g, c, done);
  }
}

}  // namespace avx512vnni
}  // namespace qgemm
