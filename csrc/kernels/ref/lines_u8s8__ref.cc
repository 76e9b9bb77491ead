#include "kernels/ref/epilogue__ref.h"

namespace qgemm {
namespace ref {

void lines_u8s8_1x1(const lines_args& g) {
  const int rest = g.kc % 4, whole = g.kc - rest;
  const auto weight = [&](int k, int n) { return g.b[(static_cast<ptrdiff_t>(k) / 4 * g.width + n) * 4 + k % 4]; };
  for (int o = 0; o < g.outputs; ++o)
    for (ptrdiff_t x = 0; x < g.pixels; ++x)
      for (int n = 0; n < g.n; ++n) {
        int64_t acc = 0;
        for (int t = 0; t < g.taps; ++t)
          for (int k = 0; k < g.kc; ++k) {
            const ptrdiff_t at = g.first + x * g.step + k;
            const int a = at >= 0 && at < g.bytes ? g.rows[o * g.advance + t][at] : g.padding;
            acc += a * weight(k < whole ? t * whole + k : g.taps * whole + t * rest + k - whole, n);
          }
        store(*g.ep, acc, 0, g.col + n, n, static_cast<char*>(g.c) + o * g.ldr + x * g.ldc);
      }
}

}  // namespace ref
}  // namespace qgemm
