// 64 bytes of a result are drawn from up to four registers by two vpermi2b and a blend. The registers of a unit, on either side,
// are those of its pieces, one after the other.
#include <immintrin.h>

#include "kernels/api.h"

namespace qgemm {
namespace avx512vbmi {

namespace {

constexpr ptrdiff_t kWindow = 4;  // registers that one permutation can draw from

inline __attribute__((always_inline)) __mmask64 lanes(ptrdiff_t n) { return n >= 64 ? ~0ull : n <= 0 ? 0 : (1ull << n) - 1; }

// The registers of one side of a unit.
struct Side {
  ptrdiff_t length, pitch, per_piece, count;

  Side(ptrdiff_t pieces, ptrdiff_t n, ptrdiff_t apart)
      : length(n), pitch(apart), per_piece((n + 63) / 64), count(pieces * per_piece) {}
  ptrdiff_t offset(ptrdiff_t r) const { return r / per_piece * pitch + r % per_piece * 64; }
  __mmask64 mask(ptrdiff_t r) const { return lanes(length - r % per_piece * 64); }
  // The number of register r's first byte.
  ptrdiff_t first(ptrdiff_t r) const { return r / per_piece * length + r % per_piece * 64; }
};

// Of register j of the result, the bytes that registers [w, w + kWindow) of the source give.
struct Draw {
  __m512i index;
  __mmask64 here, upper;

  Draw(const permute_args& g, const Side& in, const Side& out, ptrdiff_t j, ptrdiff_t w) : here(0) {
    alignas(64) uint8_t local[64];
    const int32_t* from = g.index + out.first(j);
    const __mmask64 there = out.mask(j);
    for (int i = 0; i < 4; ++i) {
      const __mmask16 m = static_cast<__mmask16>(there >> (16 * i));
      const __m512i at = _mm512_maskz_loadu_epi32(m, from + 16 * i);
      // Each piece begins with a register.
      __m512i byte = _mm512_sub_epi32(at, _mm512_set1_epi32(static_cast<int>(64 * w)));
      for (ptrdiff_t p = 1; p < g.in_pieces; ++p)
        byte = _mm512_mask_add_epi32(byte, _mm512_cmpge_epi32_mask(at, _mm512_set1_epi32(static_cast<int>(p * in.length))), byte,
                                     _mm512_set1_epi32(static_cast<int>(in.per_piece * 64 - in.length)));
      const __mmask16 mine = _mm512_mask_cmplt_epu32_mask(m, byte, _mm512_set1_epi32(64 * kWindow));
      _mm_store_si128(reinterpret_cast<__m128i*>(local) + i, _mm512_maskz_cvtepi32_epi8(mine, byte));
      here |= static_cast<__mmask64>(mine) << (16 * i);
    }
    index = _mm512_load_si512(local);
    upper = _mm512_movepi8_mask(index);
  }
};

// Units of at most kIn and kOut registers: a unit is loaded once, and what picks its bytes stays in registers.
template <int kIn, int kOut, bool kTwin>
void small_units(const permute_args& g, const Side& in, const Side& out) {
  __m512i index[kOut];
  __mmask64 upper[kOut], read[kIn], written[kOut];
  ptrdiff_t from[kIn], to[kOut];
  const ptrdiff_t twin = g.twin;
#pragma GCC unroll 4
  for (int j = 0; j < kOut; ++j) {
    const Draw d(g, in, out, j, 0);
    index[j] = d.index;
    upper[j] = d.upper;
    written[j] = out.mask(j);
    to[j] = out.offset(j);
  }
#pragma GCC unroll 4
  for (int i = 0; i < kIn; ++i) read[i] = in.mask(i), from[i] = in.offset(i);
  for (ptrdiff_t r = 0; r < g.rows; ++r) {
    const uint8_t* x = g.x + r * g.ldx;
    uint8_t* o = g.out + r * g.ldo;
    for (ptrdiff_t u = 0; u < g.units; ++u, x += in.length, o += out.length) {
      __m512i v[4];
#pragma GCC unroll 4
      for (int i = 0; i < kIn; ++i) v[i] = _mm512_maskz_loadu_epi8(read[i], x + from[i]);
#pragma GCC unroll 4
      for (int i = kIn; i < 4; ++i) v[i] = v[0];
#pragma GCC unroll 4
      for (int j = 0; j < kOut; ++j) {
        __m512i q = kIn == 1 ? _mm512_permutexvar_epi8(index[j], v[0]) : _mm512_permutex2var_epi8(v[0], index[j], v[1]);
        if (kIn > 2) q = _mm512_mask_blend_epi8(upper[j], q, _mm512_permutex2var_epi8(v[2], index[j], v[3]));
        _mm512_mask_storeu_epi8(o + to[j], written[j], q);
        if (kTwin) _mm512_mask_storeu_epi8(o + to[j] + twin, written[j], q);
      }
    }
  }
}

template <int kIn, int kOut>
bool small_units_of(const permute_args& g, const Side& in, const Side& out) {
  g.twin ? small_units<kIn, kOut, true>(g, in, out) : small_units<kIn, kOut, false>(g, in, out);
  return true;
}

template <int kIn>
bool small_units_of(const permute_args& g, const Side& in, const Side& out) {
  switch (out.count) {
    case 1:
      return small_units_of<kIn, 1>(g, in, out);
    case 2:
      return small_units_of<kIn, 2>(g, in, out);
    case 3:
      return small_units_of<kIn, 3>(g, in, out);
    case 4:
      return small_units_of<kIn, 4>(g, in, out);
    default:
      return false;
  }
}

bool small_units_of(const permute_args& g, const Side& in, const Side& out) {
  switch (in.count) {
    case 1:
      return small_units_of<1>(g, in, out);
    case 2:
      return small_units_of<2>(g, in, out);
    case 3:
      return small_units_of<3>(g, in, out);
    case 4:
      return small_units_of<4>(g, in, out);
    default:
      return false;
  }
}

// Larger units whose pieces are whole registers of the result, each of which comes from two stretches of 64 bytes at most: what
// is drawn from where is a list, made first and followed for every unit.
constexpr int kSteps = 32;

struct Step {
  __m512i index;
  ptrdiff_t from[2], to;  // bytes from the unit's first
};

// False where a register of the result needs more.
bool step_of(const permute_args& g, ptrdiff_t piece, ptrdiff_t at, Step& s) {
  const int32_t* index = g.index + piece * g.out_length + at;
  __m512i from[4], bytes[4];
  uint64_t left = ~0ull;
  for (int i = 0; i < 4; ++i) from[i] = _mm512_loadu_si512(index + 16 * i), bytes[i] = _mm512_setzero_si512();
  s.to = piece * g.out_pitch + at;
  for (int w = 0; w < 2; ++w) {
    // The stretch begins at the lowest byte of the first one's piece, or as near to it as the piece allows.
    const ptrdiff_t first = left ? index[__builtin_ctzll(left)] / g.in_length : 0;
    const auto begin = static_cast<uint32_t>(first * g.in_length);
    auto low = static_cast<uint32_t>(g.in_length - 64);
    for (int i = 0; i < 4; ++i) {
      const __m512i byte = _mm512_sub_epi32(from[i], _mm512_set1_epi32(static_cast<int>(begin)));
      const uint32_t lowest = _mm512_mask_reduce_min_epu32(static_cast<__mmask16>(left >> (16 * i)), byte);
      low = lowest < low ? lowest : low;
    }
    s.from[w] = first * g.in_pitch + low;
    for (int i = 0; i < 4; ++i) {
      const __m512i byte = _mm512_sub_epi32(from[i], _mm512_set1_epi32(static_cast<int>(begin + low)));
      const __mmask16 mine = _mm512_mask_cmplt_epu32_mask(static_cast<__mmask16>(left >> (16 * i)), byte, _mm512_set1_epi32(64));
      bytes[i] = _mm512_mask_add_epi32(bytes[i], mine, byte, _mm512_set1_epi32(64 * w));
      left &= ~(static_cast<uint64_t>(mine) << (16 * i));
    }
  }
  alignas(64) uint8_t local[64];
  for (int i = 0; i < 4; ++i) _mm_store_si128(reinterpret_cast<__m128i*>(local) + i, _mm512_cvtepi32_epi8(bytes[i]));
  s.index = _mm512_load_si512(local);
  return left == 0;
}

bool whole_registers(const permute_args& g) {
  if (g.in_length < 64 || g.out_length % 64 != 0 || g.out_pieces * g.out_length > 64 * kSteps) return false;
  Step steps[kSteps];
  int count = 0;
  for (ptrdiff_t piece = 0; piece < g.out_pieces; ++piece)
    for (ptrdiff_t at = 0; at < g.out_length; at += 64)
      if (!step_of(g, piece, at, steps[count++])) return false;
  for (ptrdiff_t r = 0; r < g.rows; ++r) {
    const uint8_t* x = g.x + r * g.ldx;
    uint8_t* o = g.out + r * g.ldo;
    for (ptrdiff_t u = 0; u < g.units; ++u, x += g.in_length, o += g.out_length)
      for (int i = 0; i < count; ++i) {
        const Step& s = steps[i];
        const __m512i first = _mm512_loadu_si512(x + s.from[0]), second = _mm512_loadu_si512(x + s.from[1]),
                      v = _mm512_permutex2var_epi8(first, s.index, second);
        _mm512_storeu_si512(o + s.to, v);
        if (g.twin) _mm512_storeu_si512(o + s.to + g.twin, v);
      }
  }
  return true;
}

}  // namespace

// Any other units: 64 bytes of the result at a time, for all of them; each window of the source adds those that come from it.
void permute_u8_1x64(const permute_args& g) {
  const Side in(g.in_pieces, g.in_length, g.in_pitch), out(g.out_pieces, g.out_length, g.out_pitch);
  if (small_units_of(g, in, out) || whole_registers(g)) return;
  for (ptrdiff_t j = 0; j < out.count; ++j) {
    for (ptrdiff_t w = 0; w < in.count; w += kWindow) {
      const Draw d(g, in, out, j, w);
      if (d.here == 0) continue;
      __mmask64 read[kWindow];
      ptrdiff_t from[kWindow];
      for (ptrdiff_t i = 0; i < kWindow; ++i) {
        const bool there = w + i < in.count;
        read[i] = there ? in.mask(w + i) : 0;
        from[i] = there ? in.offset(w + i) : 0;
      }
      for (ptrdiff_t r = 0; r < g.rows; ++r) {
        const uint8_t* x = g.x + r * g.ldx;
        uint8_t* o = g.out + r * g.ldo + out.offset(j);
        for (ptrdiff_t u = 0; u < g.units; ++u, x += in.length, o += out.length) {
          const auto load = [&](ptrdiff_t i) { return _mm512_maskz_loadu_epi8(read[i], x + from[i]); };
          __m512i v = _mm512_permutex2var_epi8(load(0), d.index, load(1));
          if (read[2]) v = _mm512_mask_blend_epi8(d.upper, v, _mm512_permutex2var_epi8(load(2), d.index, load(3)));
          _mm512_mask_storeu_epi8(o, d.here, v);
          if (g.twin) _mm512_mask_storeu_epi8(o + g.twin, d.here, v);
        }
      }
    }
  }
}

}  // namespace avx512vbmi
}  // namespace qgemm
