// 64 bytes of a result are drawn from up to four registers by two vpermi2b and a blend. Where a row of units is one array of
// bytes these are neighbours in it (Near). Else the registers of a unit, on either side, are those of its pieces, one after the
// other.
#include <immintrin.h>

#include <cstring>

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

// Units that follow each other on both sides and keep every byte near its place. A row is one array: byte b of its result, or of
// either result where pieces are two, comes from byte kRatio * b + off, where `off` depends on b's place in its unit alone and
// differs by so little that any 64 bytes are drawn from four registers. These move along the row by kRatio registers a step.
template <int kRatio>
class Near {
 public:
  explicit Near(const permute_args& g)
      : g_(g), length_(g.out_length), in_(g.units * g.in_length), out_(g.units * g.out_length), low_(0), possible_(false) {
    if (g.in_pieces != 1 || g.out_pieces != kRatio || g.twin || g.in_length != kRatio * length_ || length_ > kMostLength ||
        length_ <= 0 || length_ % 64 == 0 || out_ < kLeastRow || (kRatio == 2 && 64 % length_ == 0))
      return;
    const __m512i iota = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    __m512i lowest = _mm512_setzero_si512(), highest = lowest;
    for (int p = 0; p < kRatio; ++p)
      for (ptrdiff_t i = 0; i < length_; i += 16) {
        const __mmask16 m = static_cast<__mmask16>(lanes(length_ - i));
        const __m512i from = _mm512_maskz_loadu_epi32(m, g.index + p * length_ + i),
                      own = _mm512_mullo_epi32(_mm512_add_epi32(iota, _mm512_set1_epi32(static_cast<int>(i))),
                                               _mm512_set1_epi32(kRatio)),
                      off = _mm512_maskz_sub_epi32(m, from, own);
        lowest = _mm512_min_epi32(lowest, off);
        highest = _mm512_max_epi32(highest, off);
        _mm512_mask_cvtepi32_storeu_epi8(off_[p] + i, m, off);
      }
    low_ = (_mm512_reduce_min_epi32(lowest) - 63) / 64;
    possible_ = _mm512_reduce_max_epi32(highest) + 63 * kRatio < 64 * (low_ + kWindow);
    // As many more as a register that begins with the last one needs.
    for (int p = 0; p < kRatio; ++p)
      for (ptrdiff_t n = length_; n < length_ + 63;) {
        const ptrdiff_t more = n < length_ + 63 - n ? n : length_ + 63 - n;
        std::memcpy(off_[p] + n, off_[p], static_cast<size_t>(more));
        n += more;
      }
  }

  bool possible() const { return possible_; }

  void run() const {
    // Registers of the result that are whole, as are all that they are drawn from.
    const ptrdiff_t room = in_ / 64 - low_ - kWindow, fit = room < 0 ? 0 : room / kRatio + 1,
                    whole = fit < out_ / 64 ? fit : out_ / 64, tail = (out_ + 63) / 64 - whole;
    // What is there of the registers that a row begins with, and of those of the steps after the whole ones.
    const auto there = [&](ptrdiff_t i) { return i + low_ < 0 ? 0 : lanes(in_ - 64 * (i + low_)); };
    __mmask64 begin[kWindow - kRatio], read[kMostTail][kRatio], written[kMostTail];
    for (int i = 0; i < kWindow - kRatio; ++i) begin[i] = there(i);
    for (ptrdiff_t t = 0; t < tail; ++t) {
      for (int i = 0; i < kRatio; ++i) read[t][i] = there(kRatio * (whole + t) + kWindow - kRatio + i);
      written[t] = lanes(out_ - 64 * (whole + t));
    }
    alignas(64) int8_t places[64];
    for (int i = 0; i < 64; ++i) places[i] = static_cast<int8_t>(kRatio * i - 64 * low_);
    const __m512i place = _mm512_load_si512(places);
    const ptrdiff_t length = length_, low = low_, further = 64 % length, pitch = g_.out_pitch;
    for (ptrdiff_t r = 0; r < g_.rows; ++r) {
      const uint8_t* x = g_.x + r * g_.ldx + 64 * low;
      uint8_t* const out = g_.out + r * g_.ldo;
      __m512i v[kWindow];
#pragma GCC unroll 4
      for (int i = 0; i < kWindow - kRatio; ++i) v[kRatio + i] = _mm512_maskz_loadu_epi8(begin[i], x + 64 * i);
      ptrdiff_t at = 0;  // in a unit
      const auto step = [&](ptrdiff_t j, const __mmask64* there, __mmask64 k) __attribute__((always_inline)) {
#pragma GCC unroll 4
        for (int i = 0; i < kWindow - kRatio; ++i) v[i] = v[i + kRatio];
#pragma GCC unroll 4
        for (int i = 0; i < kRatio; ++i) {
          const uint8_t* p = x + 64 * (kRatio * j + kWindow - kRatio + i);
          v[kWindow - kRatio + i] = there ? _mm512_maskz_loadu_epi8(there[i], p) : _mm512_loadu_si512(p);
        }
#pragma GCC unroll 2
        for (int p = 0; p < kRatio; ++p) {
          const __m512i index = _mm512_add_epi8(_mm512_loadu_si512(off_[p] + at), place);
          const __m512i q = _mm512_mask_blend_epi8(_mm512_movepi8_mask(index), _mm512_permutex2var_epi8(v[0], index, v[1]),
                                                   _mm512_permutex2var_epi8(v[2], index, v[3]));
          _mm512_mask_storeu_epi8(out + p * pitch + 64 * j, k, q);
        }
        at += further;
        at = at < length ? at : at - length;
      };
      ptrdiff_t j = 0;
      for (; j < whole; ++j) step(j, nullptr, ~0ull);
      for (ptrdiff_t t = 0; t < tail; ++t, ++j) step(j, read[t], written[t]);
    }
  }

 private:
  // Short rows, and two pieces that fill registers, are as fast unit by unit.
  static constexpr ptrdiff_t kMostLength = 256, kLeastRow = kRatio == 2 ? 256 : 64, kMostTail = kWindow + 2;
  const permute_args& g_;
  const ptrdiff_t length_, in_, out_;  // bytes of a piece of the result, of a row, and of a row's results
  ptrdiff_t low_;                      // registers from a result's place to the first that it is drawn from
  bool possible_;
  uint8_t off_[kRatio][kMostLength + 64];
};

template <int kRatio>
bool near_places(const permute_args& g) {
  const Near<kRatio> rows(g);
  if (rows.possible()) rows.run();
  return rows.possible();
}

}  // namespace

// Any other units: 64 bytes of the result at a time, for all of them; each window of the source adds those that come from it.
void permute_u8_1x64(const permute_args& g) {
  const Side in(g.in_pieces, g.in_length, g.in_pitch), out(g.out_pieces, g.out_length, g.out_pitch);
  if (near_places<1>(g) || near_places<2>(g) || small_units_of(g, in, out) || whole_registers(g)) return;
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
