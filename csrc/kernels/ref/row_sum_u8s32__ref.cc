#include "kernels/api.h"

namespace qgemm {
namespace ref {

void row_sum_u8s32_1x1(const row_sum_args& g) {
  for (ptrdiff_t i = 0; i < g.m; ++i) {
    int32_t sum = 0;
    for (ptrdiff_t k = 0; k < g.k; ++k) sum += g.a[i * g.lda + k];
    g.sum[i] = sum;
  }
}

}  // namespace ref
}  // namespace qgemm
