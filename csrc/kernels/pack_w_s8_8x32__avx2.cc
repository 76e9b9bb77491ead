// A weight's rows to a panel: squares of 8 rows x 32 bytes, transposed as dwords in registers. The sums come from the same
// registers. Pairs of bytes are added in 16 bits, where neither 2 * -128 nor 2 * 255 saturates.
#include <string.h>

#include "kernels/epilogue__avx2.h"

namespace qgemm {
namespace avx2 {
namespace {

constexpr ptrdiff_t kFlush = ptrdiff_t(1) << 20;  // int32 lanes hold 2^20 values of magnitude up to 255

struct Sums {
  __m256i sum, absolute;
};

QGEMM_INLINE void add64(int64_t* to, __m256i v) {
  __m256i* at = reinterpret_cast<__m256i*>(to);
  _mm256_storeu_si256(at, _mm256_add_epi64(_mm256_loadu_si256(at), _mm256_cvtepi32_epi64(_mm256_castsi256_si128(v))));
  _mm256_storeu_si256(at + 1,
                      _mm256_add_epi64(_mm256_loadu_si256(at + 1), _mm256_cvtepi32_epi64(_mm256_extracti128_si256(v, 1))));
}

QGEMM_INLINE void add_sums(Sums& s, __m256i v, __m256i zero_point) {
  const __m256i ones = _mm256_set1_epi8(1), pairs = _mm256_set1_epi16(1);
  s.sum = _mm256_add_epi32(s.sum, _mm256_madd_epi16(_mm256_maddubs_epi16(ones, v), pairs));
  const __m256i d = _mm256_sub_epi8(_mm256_max_epi8(v, zero_point), _mm256_min_epi8(v, zero_point));
  s.absolute = _mm256_add_epi32(s.absolute, _mm256_madd_epi16(_mm256_maddubs_epi16(d, ones), pairs));
}

// r[i] dword x -> r[x] dword i.
QGEMM_INLINE void transpose8(__m256i* r) {
  __m256i t[8];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    t[2 * i] = _mm256_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm256_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
  __m256i u[8];
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    u[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
    u[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
    u[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
    u[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm256_permute2x128_si256(u[i], u[i + 4], 0x20);
    r[i + 4] = _mm256_permute2x128_si256(u[i], u[i + 4], 0x31);
  }
}

}  // namespace

void pack_w_s8_8x32(const pack_w_args& g) {
  const int vectors = g.width / 8;
  const ptrdiff_t line = static_cast<ptrdiff_t>(g.width) * 4;
  Sums s[8];
  __m256i zero_point[8], range = _mm256_setzero_si256();
  for (int j = 0; j < 8; ++j) {
    s[j].sum = s[j].absolute = zero_point[j] = _mm256_setzero_si256();
    if (g.zero_point && j < vectors) {
      const __m256i z = _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(g.zero_point + 8 * j)));
      zero_point[j] = _mm256_mullo_epi32(_mm256_and_si256(z, _mm256_set1_epi32(255)), _mm256_set1_epi32(0x01010101));
    }
  }
  const ptrdiff_t groups = g.k > g.group ? (g.k + g.group - 1) / g.group : 1;
  for (ptrdiff_t i = 0; i < groups * g.width; ++i) g.sum[i] = g.absolute[i] = 0;
  alignas(32) int8_t wide[8 * 256 + 64];
  alignas(32) int8_t edge[8][32];
  ptrdiff_t q = 0, end = g.group, since = 0;  // the group, where it ends, k's since all sums were last brought to memory
  const auto flush = [&](int j) {
    add64(g.sum + q * g.width + 8 * j, s[j].sum);
    add64(g.absolute + q * g.width + 8 * j, s[j].absolute);
    s[j].sum = s[j].absolute = _mm256_setzero_si256();
  };
  // Steps of at most 32 k that end where a group ends: a step lies in one group, and its panel rows are whole.
  for (ptrdiff_t k = 0, step; k < g.k; k += step) {
    const ptrdiff_t left = (g.k < end ? g.k : end) - k;
    step = left < 32 ? left : 32;
    const int k4 = static_cast<int>((step + 3) / 4);
    for (int j = 0; j < vectors; ++j) {
      __m256i r[8];
      const int8_t* w = g.w + 8 * j * g.ldw + k;
      const int rows = g.n - 8 * j;
      if (step == 32 && rows >= 8) {
#pragma GCC unroll 8
        for (int i = 0; i < 8; ++i) r[i] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w + i * g.ldw));
      } else {
        memset(edge, 0, sizeof(edge));
        for (int i = 0; i < rows && i < 8; ++i) memcpy(edge[i], w + i * g.ldw, static_cast<size_t>(step));
#pragma GCC unroll 8
        for (int i = 0; i < 8; ++i) r[i] = _mm256_load_si256(reinterpret_cast<const __m256i*>(edge[i]));
      }
      transpose8(r);
      int8_t* to = (g.bits == 4 ? wide : reinterpret_cast<int8_t*>(g.panel) + k / 4 * line) + 32 * j;
      alignas(32) __m256i lines[8];
#pragma GCC unroll 8
      for (int x = 0; x < 8; ++x) lines[x] = r[x];
      for (int x = 0; x < k4; ++x) {
        const __m256i v = lines[x];
        add_sums(s[j], v, zero_point[j]);
        range = _mm256_or_si256(range, _mm256_add_epi8(v, _mm256_set1_epi8(8)));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + x * line), v);
      }
    }
    if (g.bits == 4) {
      // A value's place among the pieces of 128 follows from its place in the panel; a step may begin in a piece's upper half.
      const ptrdiff_t first = k / 4 * line, bytes = k4 * line;
      for (ptrdiff_t i = 0; i < bytes; i += 32) {
        const ptrdiff_t at = first + i;
        __m256i* to = reinterpret_cast<__m256i*>(g.panel + at / 128 * 64 + at % 64);
        const __m256i v = _mm256_and_si256(_mm256_load_si256(reinterpret_cast<const __m256i*>(wide + i)), _mm256_set1_epi8(15));
        if (at % 128 < 64)
          _mm256_storeu_si256(to, v);
        else
          _mm256_storeu_si256(to, _mm256_or_si256(_mm256_loadu_si256(to), _mm256_slli_epi16(v, 4)));
      }
    }
    since += step;
    if (k + step == end || since >= kFlush) {
      for (int j = 0; j < vectors; ++j) flush(j);
      since = 0;
      if (k + step == end && end < g.k) ++q, end += g.group;
    }
  }
  for (int j = 0; j < vectors; ++j) flush(j);
  // The zeros that k was rounded up with have a distance from the zero point too.
  if (g.zero_point)
    for (int c = 0; c < g.n; ++c)
      g.absolute[q * g.width + c] -= ((g.k + 3) / 4 * 4 - g.k) * (g.zero_point[c] < 0 ? -g.zero_point[c] : g.zero_point[c]);
  *g.in_range = g.bits == 8 || _mm256_testz_si256(range, _mm256_set1_epi8(static_cast<char>(0xf0)));
}

}  // namespace avx2
}  // namespace qgemm
