#include "kernels/api.h"

namespace qgemm {
namespace ref {

namespace {

// A loop whose lengths are known is unrolled: three loads of a byte, two shifts and a store. Without a byte permute across lanes
// vectors do no better.
template <int kTaps>
void single_bytes(const tails_args& g) {
  const uint8_t* lines[kTaps];
  for (int t = 0; t < kTaps; ++t) lines[t] = g.lines[t];
  uint8_t* out = g.out;
  for (ptrdiff_t x = 0, at = 0; x < g.pixels; ++x, at += g.step, out += g.ldo) {
    uint64_t v = 0;
    for (int t = 0; t < kTaps; ++t) v |= static_cast<uint64_t>(lines[t][at]) << (8 * t);
    for (int half = 0; half < (kTaps + 3) / 4; ++half) {
      const uint32_t bytes = static_cast<uint32_t>(v >> (32 * half));
      __builtin_memcpy(out + 4 * half, &bytes, 4);
    }
  }
}

}  // namespace

void tails_u8_1x1(const tails_args& g) {
  if (g.n == 1 && g.taps == 3 && g.ldo == 4) return single_bytes<3>(g);
  if (g.n == 1 && g.taps == 7) return single_bytes<7>(g);
  for (ptrdiff_t x = 0; x < g.pixels; ++x)
    for (ptrdiff_t b = 0; b < g.ldo; ++b) g.out[x * g.ldo + b] = b < g.taps * g.n ? g.lines[b / g.n][x * g.step + b % g.n] : 0;
}

}  // namespace ref
}  // namespace qgemm
