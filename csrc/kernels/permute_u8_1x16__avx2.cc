// 16 bytes of a result are put together from the 16-byte windows of the source that they come from, by a vpshufb each: a list of
// such steps is made first and followed for every unit.
#include "kernels/epilogue__avx2.h"

namespace qgemm {
namespace avx2 {
namespace {

constexpr int kSteps = 256;  // of a list, on the stack: 8 KiB

struct Step {
  alignas(16) uint8_t shuffle[16];  // 0x80: a zero, where another step's byte goes
  ptrdiff_t from, to;               // bytes from the unit's first; to: of the result, -1 where another step of it follows
};

// Adds the steps of 16 bytes of the result, the first of them byte `at` of piece `piece`. False where the list is too full.
bool add_steps(const permute_args& g, ptrdiff_t piece, ptrdiff_t at, Step* steps, int* count) {
  const int32_t* index = g.index + piece * g.out_length + at;
  uint32_t left = 0xffff;  // bytes without a step
  int n = *count;
  while (left) {
    if (n == kSteps) return false;
    // The window begins at the lowest byte of the first one's piece, or as near to it as the piece allows.
    const ptrdiff_t from = index[__builtin_ctz(left)] / g.in_length, begin = from * g.in_length;
    ptrdiff_t low = g.in_length - 16;
    for (int i = 0; i < 16; ++i) {
      const ptrdiff_t byte = index[i] - begin;
      if (left >> i & 1 && byte >= 0 && byte < low) low = byte;
    }
    Step& s = steps[n++];
    s.from = from * g.in_pitch + low;
    s.to = -1;
    for (int i = 0; i < 16; ++i) {
      const ptrdiff_t byte = index[i] - begin - low;
      const bool mine = left >> i & 1 && byte >= 0 && byte < 16;
      s.shuffle[i] = mine ? static_cast<uint8_t>(byte) : 0x80;
      if (mine) left &= ~(1u << i);
    }
  }
  steps[n - 1].to = piece * g.out_pitch + at;
  *count = n;
  return true;
}

void follow(const permute_args& g, const Step* steps, int count) {
  for (ptrdiff_t r = 0; r < g.rows; ++r)
    for (ptrdiff_t u = 0; u < g.units; ++u) {
      const uint8_t* x = g.x + r * g.ldx + u * g.in_length;
      uint8_t* out = g.out + r * g.ldo + u * g.out_length;
      __m128i v = _mm_setzero_si128();
      for (int i = 0; i < count; ++i) {
        const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(x + steps[i].from));
        v = _mm_or_si128(v, _mm_shuffle_epi8(bytes, _mm_load_si128(reinterpret_cast<const __m128i*>(steps[i].shuffle))));
        if (steps[i].to < 0) continue;
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + steps[i].to), v);
        if (g.twin) _mm_storeu_si128(reinterpret_cast<__m128i*>(out + steps[i].to + g.twin), v);
        v = _mm_setzero_si128();
      }
    }
}

void byte_by_byte(const permute_args& g) {
  for (ptrdiff_t j = 0; j < g.out_pieces * g.out_length; ++j) {
    const ptrdiff_t from = g.index[j] / g.in_length * g.in_pitch + g.index[j] % g.in_length,
                    to = j / g.out_length * g.out_pitch + j % g.out_length;
    for (ptrdiff_t r = 0; r < g.rows; ++r)
      for (ptrdiff_t u = 0; u < g.units; ++u) {
        uint8_t* out = g.out + r * g.ldo + u * g.out_length + to;
        out[0] = out[g.twin] = g.x[r * g.ldx + u * g.in_length + from];
      }
  }
}

}  // namespace

void permute_u8_1x16(const permute_args& g) {
  if (g.in_length < 16 || g.out_length < 16) return byte_by_byte(g);
  Step steps[kSteps];
  int count = 0;
  for (ptrdiff_t piece = 0; piece < g.out_pieces; ++piece)
    for (ptrdiff_t i = 0; i < g.out_length; i += 16) {
      const ptrdiff_t at = i + 16 <= g.out_length ? i : g.out_length - 16;  // the last 16 share some with those before
      if (add_steps(g, piece, at, steps, &count)) continue;
      follow(g, steps, count);
      count = 0;
      add_steps(g, piece, at, steps, &count);
    }
  follow(g, steps, count);
}

}  // namespace avx2
}  // namespace qgemm
