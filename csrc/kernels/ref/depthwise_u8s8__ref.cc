#include "kernels/ref/epilogue__ref.h"

namespace qgemm {
namespace ref {

void depthwise_u8s8_1x1(const depthwise_args& g) {
  for (int i = 0; i < g.pixels; ++i) {
    for (int c = 0; c < g.channels; ++c) {
      // Channel 16*lane + 4*vector + d of the block is kept at position 16*vector + 4*lane + d.
      const int lane = c / 16, vector = c / 4 % 4, d = c % 4, position = 16 * vector + 4 * lane + d;
      int64_t acc = 0;
      for (int t = 0; t < g.taps; ++t)
        acc += static_cast<int64_t>(g.a[t][i * g.step + c]) * g.b[(static_cast<ptrdiff_t>(t) / 4 * 64 + position) * 4 + t % 4];
      store(*g.ep, acc, 0, g.col + position, c, static_cast<char*>(g.c) + i * g.ldc);
    }
  }
}

}  // namespace ref
}  // namespace qgemm
