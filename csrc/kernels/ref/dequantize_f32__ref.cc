#include "kernels/api.h"

namespace qgemm {
namespace ref {

void dequantize_f32_1x1(const dequantize_args& g) {
  for (ptrdiff_t i = 0; i < g.n; ++i) {
    int32_t q;
    if (g.bytes == 1)
      q = g.is_signed ? static_cast<const int8_t*>(g.q)[i] : static_cast<const uint8_t*>(g.q)[i];
    else
      q = g.is_signed ? static_cast<const int16_t*>(g.q)[i] : static_cast<const uint16_t*>(g.q)[i];
    g.x[i] = static_cast<float>(q - g.zero_point) * g.scale;
  }
}

}  // namespace ref
}  // namespace qgemm
