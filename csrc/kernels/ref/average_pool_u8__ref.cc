#include <cmath>

#include "kernels/api.h"

namespace qgemm {
namespace ref {

namespace {

void one_row(const average_pool_args& g, const uint8_t* const* rows, uint8_t* out) {
  const float lo = static_cast<float>(g.lo - g.zero_point), hi = static_cast<float>(g.hi - g.zero_point);
  for (int64_t x = 0; x < g.pixels; ++x)
    for (int64_t c = 0; c < g.channels; ++c) {
      int64_t acc = 0;
      int covered = 0;
      for (int t = 0; t < g.taps; ++t) {
        const int64_t column = g.first + x * g.stride + t * g.dilation;
        if (column < 0 || column >= g.columns) continue;
        ++covered;
        for (int r = 0; r < g.height; ++r) acc += rows[r][column * g.pixel + c] - g.x_zero_point;
      }
      float t = static_cast<float>(acc) * g.scale[covered] * g.inv_scale;
      t = t < hi ? t : hi;
      t = t > lo ? t : lo;
      out[x * g.ldo + c] = static_cast<uint8_t>((static_cast<int32_t>(std::nearbyintf(t)) + g.zero_point) ^ g.flip);
    }
}

}  // namespace

void average_pool_u8_1x1(const average_pool_args& g) {
  for (int64_t i = 0; i < g.outputs; ++i) one_row(g, g.rows + i * g.height, g.out + i * g.ldr);
}

}  // namespace ref
}  // namespace qgemm
