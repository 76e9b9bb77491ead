#include "kernels/api.h"

namespace qgemm {
namespace ref {

void max_pool_u8_1x1(const max_pool_args& g) {
  for (int c = 0; c < g.channels; ++c) {
    uint8_t m = 0;
    for (int t = 0; t < g.taps; ++t) m = g.a[t][c] > m ? g.a[t][c] : m;
    g.out[c] = m;
  }
}

}  // namespace ref
}  // namespace qgemm
