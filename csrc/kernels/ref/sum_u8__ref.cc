#include "kernels/api.h"

namespace qgemm {
namespace ref {

void sum_u8_1x1(const sum_args& g) {
  for (ptrdiff_t r = 0; r < g.rows; ++r)
    for (ptrdiff_t i = 0; i < g.n; ++i) {
      const uint8_t a = g.a[r * g.lda + i], b = g.b[r * g.ldb + i];
      const int carry = g.rank_b[b] > g.rank_a[a];
      if (g.wide) {
        const int size_a = static_cast<uint8_t>(g.whole_a[a]), size_b = static_cast<uint8_t>(g.whole_b[b]);
        const bool more_a = a >= g.first_a, more_b = b >= g.first_b;
        int s = (more_a ? size_a : 0) + (more_b ? size_b : 0);
        s = (s > 255 ? 255 : s) + carry;
        s = (s > 255 ? 255 : s) - (more_a ? 0 : size_a) - (more_b ? 0 : size_b);
        g.out[r * g.ldo + i] = static_cast<uint8_t>(s < g.lo ? g.lo : s > g.hi ? g.hi : s);
        continue;
      }
      const int s = g.whole_a[a] + g.whole_b[b] + carry;
      const int q = (s < -128 ? -128 : s > 127 ? 127 : s) + 128;
      g.out[r * g.ldo + i] = static_cast<uint8_t>(q < g.lo ? g.lo : q > g.hi ? g.hi : q);
    }
}

}  // namespace ref
}  // namespace qgemm
