#include "kernels/ref/epilogue__ref.h"

namespace qgemm {
namespace ref {

void gemm4_u8s4_4x16(const gemm4_args& g) {
  const uint8_t* b = reinterpret_cast<const uint8_t*>(g.b);
  for (int i = 0; i < g.m; ++i) {
    const uint8_t* a = g.base + i * g.lda + g.offset;
    for (int n = 0; n < g.n; ++n) {
      int64_t acc = 0;
      for (int k = 0; k < g.kc; ++k) {
        const ptrdiff_t at = (static_cast<ptrdiff_t>(k / 4) * g.width + n) * 4 + k % 4;  // of the panel in bytes
        const uint8_t byte = b[at / 128 * 64 + at % 64];
        const int nibble = at % 128 < 64 ? byte & 15 : byte >> 4;
        acc += static_cast<int64_t>(a[k]) * ((nibble ^ 8) - 8);
      }
      store(*g.ep, acc, g.row + i, g.col + n, n, static_cast<char*>(g.c) + i * g.ldc);
    }
  }
}

}  // namespace ref
}  // namespace qgemm
