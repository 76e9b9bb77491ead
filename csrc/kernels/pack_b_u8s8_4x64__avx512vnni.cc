// An activation as the right operand: packed into a panel on the fly, with the sums of its columns. Two layouts of B, one panel
// order.
//   [k][n]: the dwords of each row are permuted so that two in-lane unpacks of four rows leave the columns in natural order.
//   [n][k]: a 16x16 transposition of dwords; four consecutive k of a column are a dword already.
#include "kernels/transpose__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {
namespace {

void pack_rows(const pack_b_args& g) {
  const __mmask64 columns = lanes64(g.n);
  // u8 -> s8 by the flip; lanes that hold no column become 0, not a flipped 0.
  const __m512i flip = _mm512_maskz_set1_epi8(columns, static_cast<char>(g.flip)), ones = _mm512_set1_epi8(1);
  const int vectors = g.width / 16;
  // Lane l, dword j takes lane j, dword l: what unpacking by lanes leaves in register j are then columns 16 * j to 16 * j + 15.
  const __m512i lanes = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  __m512i sum[4] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512()};
  int8_t* out = g.panel;
  for (int k = 0; k < g.k; k += 4, out += g.width * 4) {
    __m512i r[4];
    const uint8_t* b = g.b + k * g.ldb;
    if (k + 4 <= g.k) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i, b += g.ldb) r[i] = _mm512_xor_si512(_mm512_maskz_loadu_epi8(columns, b), flip);
    } else {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i, b += g.ldb)
        r[i] = k + i < g.k ? _mm512_xor_si512(_mm512_maskz_loadu_epi8(columns, b), flip) : _mm512_setzero_si512();
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) r[i] = _mm512_permutexvar_epi32(lanes, r[i]);
    const __m512i lo01 = _mm512_unpacklo_epi8(r[0], r[1]), hi01 = _mm512_unpackhi_epi8(r[0], r[1]);
    const __m512i lo23 = _mm512_unpacklo_epi8(r[2], r[3]), hi23 = _mm512_unpackhi_epi8(r[2], r[3]);
    __m512i v[4] = {_mm512_unpacklo_epi16(lo01, lo23), _mm512_unpackhi_epi16(lo01, lo23), _mm512_unpacklo_epi16(hi01, hi23),
                    _mm512_unpackhi_epi16(hi01, hi23)};
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) sum[j] = _mm512_dpbusd_epi32(sum[j], ones, v[j]);
    _mm512_storeu_si512(out, v[0]);
    if (vectors > 1) _mm512_storeu_si512(out + 64, v[1]);
    if (vectors > 2) _mm512_storeu_si512(out + 128, v[2]);
    if (vectors > 3) _mm512_storeu_si512(out + 192, v[3]);
  }
  _mm512_storeu_si512(g.colsum, sum[0]);
  if (vectors > 1) _mm512_storeu_si512(g.colsum + 16, sum[1]);
  if (vectors > 2) _mm512_storeu_si512(g.colsum + 32, sum[2]);
  if (vectors > 3) _mm512_storeu_si512(g.colsum + 48, sum[3]);
}

void pack_columns(const pack_b_args& g) {
  const __m512i flip = _mm512_set1_epi8(static_cast<char>(g.flip)), ones = _mm512_set1_epi8(1);
  for (int c = 0; c < g.width; c += 16) {
    // Four sums: one chain of them would take longer than the rest.
    __m512i sum[4] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512()};
    const uint8_t* b = g.b + c * g.ldb;
    int8_t* out = g.panel + c * 4;
    const ptrdiff_t step = static_cast<ptrdiff_t>(g.width) * 4;
    for (int k = 0; k < g.k; k += 64, b += 64) {
      const int left = g.k - k;
      __m512i r[16];
      if (left >= 64 && c + 16 <= g.n) {
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i) r[i] = _mm512_xor_si512(_mm512_loadu_si512(b + i * g.ldb), flip);
        // The square after this one: more rows than the hardware follows.
        const uint8_t* next = left > 64 ? b + 64 : g.b + (c + 16) * g.ldb;
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i) __builtin_prefetch(next + i * g.ldb);
        transpose16(r);
#pragma GCC unroll 16
        for (int x = 0; x < 16; ++x, out += step) {
          sum[x % 4] = _mm512_dpbusd_epi32(sum[x % 4], ones, r[x]);
          _mm512_storeu_si512(out, r[x]);
        }
      } else {
        const __mmask64 bytes = lanes64(left);
        const __m512i flipped = _mm512_maskz_mov_epi8(bytes, flip);  // what is no byte of B becomes 0, not a flipped 0
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i)
          r[i] = c + i < g.n ? _mm512_xor_si512(_mm512_maskz_loadu_epi8(bytes, b + i * g.ldb), flipped) : _mm512_setzero_si512();
        transpose16(r);
        const int groups = left < 64 ? (left + 3) / 4 : 16;
#pragma GCC unroll 16
        for (int x = 0; x < 16; ++x, out += step) {
          sum[x % 4] = _mm512_dpbusd_epi32(sum[x % 4], ones, r[x]);
          if (x < groups) _mm512_storeu_si512(out, r[x]);
        }
      }
    }
    _mm512_storeu_si512(g.colsum + c, _mm512_add_epi32(_mm512_add_epi32(sum[0], sum[1]), _mm512_add_epi32(sum[2], sum[3])));
  }
}

}  // namespace

void pack_b_u8s8_4x64(const pack_b_args& g) {
  if (g.transposed)
    pack_columns(g);
  else
    pack_rows(g);
}

}  // namespace avx512vnni
}  // namespace qgemm
