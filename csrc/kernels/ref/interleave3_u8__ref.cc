#include "kernels/api.h"

namespace qgemm {
namespace ref {

void interleave3_u8_1x1(const interleave3_args& g) {
  for (ptrdiff_t i = 0; i < g.n; ++i)
    for (int c = 0; c < 3; ++c) g.out[3 * i + c] = g.planes[c * g.ld + i];
}

}  // namespace ref
}  // namespace qgemm
