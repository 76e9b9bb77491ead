#include "kernels/api.h"

namespace qgemm {
namespace ref {

void permute_u8_1x1(const permute_args& g) {
  for (ptrdiff_t p = 0; p < g.pixels; ++p)
    for (ptrdiff_t j = 0; j < g.outputs; ++j) g.out[p * g.outputs + j] = g.x[p * g.channels + g.index[j]];
}

}  // namespace ref
}  // namespace qgemm
