#include "kernels/api.h"

namespace qgemm {
namespace ref {

void sum_pool_u8s32_1x1(const sum_pool_args& g) {
  for (int c = 0; c < g.channels; ++c) {
    int64_t s = 0;
    for (int t = 0; t < g.taps; ++t) s += g.a[t][c];
    g.sum[c] = static_cast<int32_t>(s);
  }
}

}  // namespace ref
}  // namespace qgemm
