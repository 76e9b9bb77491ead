#include "kernels/api.h"

namespace qgemm {
namespace ref {

namespace {

void one_row(const max_pool_args& g, const uint8_t* const* rows, uint8_t* out) {
  for (int64_t x = 0; x < g.pixels; ++x)
    for (int64_t c = 0; c < g.channels; ++c) {
      uint8_t m = 0;
      for (int r = 0; r < g.height; ++r)
        for (int t = 0; t < g.taps; ++t) {
          const int64_t column = g.first + x * g.stride + t * g.dilation;
          if (column < 0 || column >= g.columns) continue;
          const uint8_t q = rows[r][column * g.pixel + c];
          m = q > m ? q : m;
        }
      out[x * g.ldo + c] = m;
    }
}

}  // namespace

void max_pool_u8_1x1(const max_pool_args& g) {
  for (int64_t i = 0; i < g.outputs; ++i) one_row(g, g.rows + i * g.advance, g.out + i * g.ldr);
}

}  // namespace ref
}  // namespace qgemm
