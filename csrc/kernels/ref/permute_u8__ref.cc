#include "kernels/api.h"

namespace qgemm {
namespace ref {

void permute_u8_1x1(const permute_args& g) {
  for (ptrdiff_t r = 0; r < g.rows; ++r)
    for (ptrdiff_t u = 0; u < g.units; ++u)
      for (ptrdiff_t j = 0; j < g.out_pieces * g.out_length; ++j) {
        const ptrdiff_t i = g.index[j];
        const uint8_t* x = g.x + r * g.ldx + u * g.in_length + i / g.in_length * g.in_pitch + i % g.in_length;
        uint8_t* out = g.out + r * g.ldo + u * g.out_length + j / g.out_length * g.out_pitch + j % g.out_length;
        out[0] = out[g.twin] = *x;
      }
}

}  // namespace ref
}  // namespace qgemm
