// A weight's rows to a panel: squares of 16 rows x 64 bytes are loaded a cache line at a time and transposed in registers, where
// four consecutive k of a column are a dword. The sums come from the same registers.
#include <string.h>

#include "kernels/transpose__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {
namespace {

// int32 lanes hold 2^20 values of magnitude up to 255.
constexpr ptrdiff_t kFlush = ptrdiff_t(1) << 20;

constexpr ptrdiff_t kAhead = 192;  // bytes of a row

// The running sums of 16 columns.
struct Sums {
  __m512i sum, absolute;
};

QGEMM_INLINE void add64(int64_t* to, __m512i v) {
  _mm512_storeu_si512(to, _mm512_add_epi64(_mm512_loadu_si512(to), _mm512_cvtepi32_epi64(_mm512_castsi512_si256(v))));
  _mm512_storeu_si512(to + 8,
                      _mm512_add_epi64(_mm512_loadu_si512(to + 8), _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(v, 1))));
}

// Sums of every column so far to the arrays of group q.
QGEMM_INLINE void flush(const pack_w_args& g, ptrdiff_t q, Sums* s) {
  for (int j = 0; j < g.width / 16; ++j) {
    add64(g.sum + q * g.width + 16 * j, s[j].sum);
    add64(g.absolute + q * g.width + 16 * j, s[j].absolute);
    s[j].sum = s[j].absolute = _mm512_setzero_si512();
  }
}

// 16 rows from `w` on, 64 bytes of each; what lies outside the weight is zero.
QGEMM_INLINE void load16(const int8_t* w, ptrdiff_t ldw, int rows, ptrdiff_t left, __m512i* r) {
  const __mmask64 bytes = lanes64(left < 64 ? static_cast<int>(left) : 64);
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) r[i] = _mm512_maskz_loadu_epi8(i < rows ? bytes : 0, i < rows ? w + i * ldw : w);
}

template <bool kZeroPoint>
QGEMM_INLINE Sums add_sums(Sums s, __m512i v, __m512i zero_point) {
  const __m512i ones = _mm512_set1_epi8(1);
  s.sum = _mm512_dpbusd_epi32(s.sum, ones, v);
  const __m512i d =
      kZeroPoint ? _mm512_sub_epi8(_mm512_max_epi8(v, zero_point), _mm512_min_epi8(v, zero_point)) : _mm512_abs_epi8(v);
  s.absolute = _mm512_dpbusd_epi32(s.absolute, d, ones);
  return s;
}

// 64 bytes: their low nibbles, and those of the 64 after them.
QGEMM_INLINE void store_nibbles(const int8_t* wide, uint8_t* to, bool stream) {
  const __m512i low = _mm512_loadu_si512(wide), high = _mm512_slli_epi16(_mm512_loadu_si512(wide + 64), 4);
  // Bits of the mask from `low`, the others from `high`: the shift left no bit of a byte in its neighbour's upper nibble.
  const __m512i v = _mm512_ternarylogic_epi32(_mm512_set1_epi8(15), low, high, 0xca);
  if (stream)
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to), v);
  else
    _mm512_storeu_si512(to, v);
}

template <bool kZeroPoint, bool kNibbles>
void pack(const pack_w_args& g) {
  const int vectors = g.width / 16;
  Sums s[4];
  __m512i zero_point[4], range = _mm512_setzero_si512();
  for (int j = 0; j < 4; ++j) {
    s[j].sum = s[j].absolute = zero_point[j] = _mm512_setzero_si512();
    if (kZeroPoint && j < vectors) {
      const __m512i z = _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(g.zero_point + 16 * j)));
      zero_point[j] = _mm512_mullo_epi32(_mm512_and_si512(z, _mm512_set1_epi32(255)), _mm512_set1_epi32(0x01010101));
    }
  }
  const ptrdiff_t groups = g.k > g.group ? (g.k + g.group - 1) / g.group : 1;
  for (ptrdiff_t i = 0; i < groups * g.width; ++i) g.sum[i] = g.absolute[i] = 0;
  alignas(64) int8_t wide[16 * 256];
  const ptrdiff_t line = static_cast<ptrdiff_t>(g.width) * 4;
  ptrdiff_t q = 0, end = g.group, since = 0;  // the group, where it ends, k's since the last flush
  // Where rows are whole lines apart, a shorter first step brings all others to the beginning of lines: a load across two of them
  // would find the first one gone again when rows share a set of L1. Steps of 8 k keep pieces of nibbles whole.
  const ptrdiff_t offset = reinterpret_cast<uintptr_t>(g.w) % 64;
  const ptrdiff_t lead = g.ldw % 64 == 0 && offset % 8 == 0 ? 64 - offset : 64;
  for (ptrdiff_t k = 0, step; k < g.k; k += step) {
    step = k == 0 ? lead : 64;
    const ptrdiff_t left = g.k - k < step ? g.k - k : step;
    const int k4 = static_cast<int>((left + 3) / 4);
    int8_t* const block = kNibbles ? wide : reinterpret_cast<int8_t*>(g.panel) + k / 4 * line;
    const bool inside = k + step <= end;  // the square lies in one group
    for (int j = 0; j < vectors; ++j) {
      __m512i r[16];
      const int8_t* w = g.w + 16 * j * g.ldw + k;
      if (left == 64 && g.n - 16 * j >= 16) {
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i) r[i] = _mm512_loadu_si512(w + i * g.ldw);
          // More rows than the hardware follows. To L2: rows a power of two apart share a set of L1.
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i) __builtin_prefetch(w + i * g.ldw + kAhead, 0, 2);
      } else {
        load16(w, g.ldw, g.n - 16 * j < 16 ? g.n - 16 * j : 16, left, r);
      }
      transpose16(r);
      int8_t* to = block + 64 * j;
      if (inside && k4 == 16) {
        Sums t = s[j];
#pragma GCC unroll 16
        for (int x = 0; x < 16; ++x) {
          t = add_sums<kZeroPoint>(t, r[x], zero_point[j]);
          if (kNibbles) range = _mm512_or_si512(range, _mm512_add_epi8(r[x], _mm512_set1_epi8(8)));
        }
        s[j] = t;
        if (g.stream && !kNibbles) {
#pragma GCC unroll 16
          for (int x = 0; x < 16; ++x) _mm512_stream_si512(reinterpret_cast<__m512i*>(to + x * line), r[x]);
        } else {
#pragma GCC unroll 16
          for (int x = 0; x < 16; ++x) _mm512_storeu_si512(to + x * line, r[x]);
        }
        continue;
      }
      if (k4 == 16 && g.group == 32 && end == k + 32) {  // a common size: two groups, each half a square
        Sums half[2] = {s[j], {_mm512_setzero_si512(), _mm512_setzero_si512()}};
#pragma GCC unroll 16
        for (int x = 0; x < 16; ++x) {
          half[x / 8] = add_sums<kZeroPoint>(half[x / 8], r[x], zero_point[j]);
          if (kNibbles) range = _mm512_or_si512(range, _mm512_add_epi8(r[x], _mm512_set1_epi8(8)));
          _mm512_storeu_si512(to + x * line, r[x]);
        }
#pragma GCC unroll 2
        for (int h = 0; h < 2; ++h) {
          add64(g.sum + (q + h) * g.width + 16 * j, half[h].sum);
          add64(g.absolute + (q + h) * g.width + 16 * j, half[h].absolute);
        }
        s[j].sum = s[j].absolute = _mm512_setzero_si512();
        continue;
      }
      // A group ends inside the square, or the weight does: the rows of each group in turn, by masks.
#pragma GCC unroll 16
      for (int x = 0; x < 16; ++x)
        if (x < k4) _mm512_storeu_si512(to + x * line, r[x]);
      if (kNibbles) {
#pragma GCC unroll 16
        for (int x = 0; x < 16; ++x) range = _mm512_or_si512(range, _mm512_add_epi8(r[x], _mm512_set1_epi8(8)));
      }
      ptrdiff_t group = q, stop = end;
      for (int from = 0, to_x; from < k4; from = to_x) {
        to_x = stop - k < 4 * k4 ? static_cast<int>((stop - k) / 4) : k4;
        const uint32_t rows = (1u << to_x) - (1u << from);
        Sums t = s[j];
#pragma GCC unroll 16
        for (int x = 0; x < 16; ++x) {
          const __mmask16 k_x = static_cast<__mmask16>(-(rows >> x & 1));
          t = add_sums<kZeroPoint>(t, _mm512_maskz_mov_epi32(k_x, r[x]), _mm512_maskz_mov_epi32(k_x, zero_point[j]));
        }
        s[j] = t;
        if (k + 4 * to_x >= stop) {
          add64(g.sum + group * g.width + 16 * j, t.sum);
          add64(g.absolute + group * g.width + 16 * j, t.absolute);
          s[j].sum = s[j].absolute = _mm512_setzero_si512();
          ++group;
          stop += g.group;
        }
      }
    }
    if (kNibbles) {
      const ptrdiff_t bytes = k4 * line;
      if (bytes % 128) _mm512_store_si512(wide + bytes, _mm512_setzero_si512());
      for (ptrdiff_t i = 0; i < bytes; i += 128) store_nibbles(wide + i, g.panel + (k / 4 * line + i) / 2, g.stream);
    }
    since += step;
    if (!inside) {
      while (end <= k + step && end < g.k) ++q, end += g.group;
    } else if (k + step == end || since >= kFlush) {
      flush(g, q, s);
      since = 0;
      if (k + step == end && end < g.k) ++q, end += g.group;
    }
  }
  flush(g, q, s);
  // The zeros that k was rounded up with have a distance from the zero point too.
  if (kZeroPoint)
    for (int c = 0; c < g.n; ++c)
      g.absolute[q * g.width + c] -= ((g.k + 3) / 4 * 4 - g.k) * (g.zero_point[c] < 0 ? -g.zero_point[c] : g.zero_point[c]);
  *g.in_range = _mm512_test_epi8_mask(range, _mm512_set1_epi8(static_cast<char>(0xf0))) == 0;
  if (g.stream) _mm_sfence();
}

}  // namespace

void pack_w_s8_16x64(const pack_w_args& g) {
  if (g.bits == 4)
    g.zero_point ? pack<true, true>(g) : pack<false, true>(g);
  else
    g.zero_point ? pack<true, false>(g) : pack<false, false>(g);
}

}  // namespace avx512vnni
}  // namespace qgemm
