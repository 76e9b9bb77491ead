#include "kernels/ref/epilogue__ref.h"

namespace qgemm {
namespace ref {

void depthwise_u8s8_1x1(const depthwise_args& g) {
  for (int o = 0; o < g.outputs; ++o)
    for (int x = 0; x < g.pixels; ++x)
      for (int c = 0; c < g.channels; ++c) {
        // Channel 16*lane + 4*vector + d of a block of 64 is kept at position 16*vector + 4*lane + d.
        const int lane = c % 64 / 16, vector = c / 4 % 4, d = c % 4, position = 16 * vector + 4 * lane + d;
        const int8_t* w = g.b + c / 64 * g.block + position * 4;
        int64_t acc = 0;
        for (int s = 0; s < g.splits; ++s)
          for (int q = 0; q < g.bundles; ++q)
            for (int t = 0; t < g.taps; ++t, w += 256)
              for (int i = 0; i < 4; ++i) {
                const int64_t column = g.first + x * g.stride + t * g.dilation + i * g.shift;
                const bool inside = column >= 0 && column < g.columns;
                const uint8_t* row = g.rows[o * g.advance + 4 * q + i];
                acc += static_cast<int64_t>(inside ? row[column * g.pixel + c] : g.padding) * w[i];
              }
        store(*g.ep, acc, 0, g.col + c / 64 * 64 + position, c, static_cast<char*>(g.c) + o * g.ldr + x * g.ldc);
      }
}

}  // namespace ref
}  // namespace qgemm
