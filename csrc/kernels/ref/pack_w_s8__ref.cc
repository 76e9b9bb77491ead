#include "kernels/api.h"

namespace qgemm {
namespace ref {
namespace {

// Byte `at` of the panel in the 8-bit order, 0 beyond the weight.
int8_t value(const pack_w_args& g, ptrdiff_t at) {
  const ptrdiff_t row = at / (g.width * 4), c = at / 4 % g.width, k = row * 4 + at % 4;
  return c < g.n && k < g.k ? g.w[c * g.ldw + k] : int8_t(0);
}

}  // namespace

void pack_w_s8_1x1(const pack_w_args& g) {
  const int64_t groups = g.k > g.group ? (g.k + g.group - 1) / g.group : 1;
  *g.in_range = true;
  for (int64_t q = 0; q < groups; ++q)
    for (int32_t c = 0; c < g.width; ++c) {
      int64_t sum = 0, absolute = 0;
      for (ptrdiff_t k = q * g.group; c < g.n && k < g.k && k < (q + 1) * g.group; ++k) {
        const int64_t w = g.w[c * g.ldw + k], d = w - (g.zero_point ? g.zero_point[c] : 0);
        sum += w;
        absolute += d < 0 ? -d : d;
        if (g.bits == 4 && (w < -8 || w > 7)) *g.in_range = false;
      }
      g.sum[q * g.width + c] = sum;
      g.absolute[q * g.width + c] = absolute;
    }
  const ptrdiff_t bytes = (g.k + 3) / 4 * g.width * 4;
  if (g.bits == 8) {
    for (ptrdiff_t i = 0; i < bytes; ++i) g.panel[i] = static_cast<uint8_t>(value(g, i));
    return;
  }
  for (ptrdiff_t i = 0; i < bytes; i += 128)
    for (ptrdiff_t j = 0; j < 64; ++j) {
      const int low = value(g, i + j) & 15, high = i + 64 + j < bytes ? value(g, i + 64 + j) & 15 : 0;
      g.panel[i / 2 + j] = static_cast<uint8_t>(low | high << 4);
    }
}

}  // namespace ref
}  // namespace qgemm
