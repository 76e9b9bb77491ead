#include "kernels/api.h"

namespace qgemm {
namespace ref {

void flip_u8_1x1(const flip_args& g) {
  for (ptrdiff_t r = 0; r < g.rows; ++r)
    for (ptrdiff_t i = 0; i < g.n; ++i) g.out[r * g.n + i] = g.x[r * g.ldx + i] ^ 0x80;
}

}  // namespace ref
}  // namespace qgemm
