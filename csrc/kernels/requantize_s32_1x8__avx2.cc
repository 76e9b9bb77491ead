#include "kernels/epilogue__avx2.h"

namespace qgemm {
namespace avx2 {

void requantize_s32_1x8(const requantize_args& g) {
  const int size = out_bytes(g.ep->out);
  for (int n = 0; n < g.n; n += 8)
    store_acc8(*g.ep, load8(g.acc + n), 0, n, g.n - n < 8 ? g.n - n : 8,
               static_cast<char*>(g.c) + static_cast<ptrdiff_t>(n) * size);
}

}  // namespace avx2
}  // namespace qgemm
