#include "kernels/api.h"

namespace qgemm {
namespace ref {

void lut_u8_1x1(const lut_args& g) {
  for (ptrdiff_t r = 0; r < g.rows; ++r)
    for (ptrdiff_t i = 0; i < g.n; ++i) g.out[r * g.ldo + i] = g.table[g.x[r * g.ldx + i]];
}

}  // namespace ref
}  // namespace qgemm
