#include "kernels/api.h"

namespace qgemm {
namespace ref {

void pack_b_u8s8_1x1(const pack_b_args& g) {
  for (int c = 0; c < g.width; ++c) {
    int32_t sum = 0;
    for (int k = 0; k < (g.k + 3) / 4 * 4; ++k) {
      int8_t v = 0;
      if (c < g.n && k < g.k) v = static_cast<int8_t>((g.transposed ? g.b[c * g.ldb + k] : g.b[k * g.ldb + c]) ^ g.flip);
      g.panel[(static_cast<ptrdiff_t>(k / 4) * g.width + c) * 4 + k % 4] = v;
      sum += v;
    }
    g.colsum[c] = sum;
  }
}

}  // namespace ref
}  // namespace qgemm
