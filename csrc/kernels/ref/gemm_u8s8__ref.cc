#include "kernels/ref/epilogue__ref.h"

namespace qgemm {
namespace ref {

void gemm_u8s8_4x16(const gemm_args& g) {
  if (g.panels > 1) {
    for (int p = 0; p < g.panels; ++p) gemm_u8s8_4x16(gemm_panel(g, p));
    return;
  }
  if (g.sets > 1) {
    for (int s = 0; s < g.sets; ++s) gemm_u8s8_4x16(gemm_set(g, s));
    return;
  }
  const ptrdiff_t groups = (g.kc + 3) / 4;
  const GemmCut cut = gemm_cut(g.m, g.tile_rows);
  for (int tile = 0; tile < cut.tiles; ++tile) {
    const int begin = gemm_tile_begin(cut, tile), end = gemm_tile_begin(cut, tile + 1);
    for (int i = begin; i < end; ++i) {
      for (int n = 0; n < g.n; ++n) {
        int64_t acc = 0;
        for (int t = 0; t < g.taps; ++t) {
          const uint8_t* a =
              g.tiles ? g.tiles[tile].rows[static_cast<ptrdiff_t>(t) * (end - begin) + i - begin] + g.tiles[tile].offset
                      : g.base + i * g.lda + (g.tap_at ? g.tap_at[t] : 0);
          const int8_t* b = g.b + t * groups * g.width * 4 + (g.line ? t / g.line * g.gap : 0);
          for (int k = 0; k < g.kc; ++k) acc += static_cast<int64_t>(a[g.offset + k]) * b[(k / 4 * g.width + n) * 4 + k % 4];
        }
        const int8_t* b = g.b + g.taps * groups * g.width * 4;
        for (int k = 0; g.rest && k < g.rest_bytes; ++k)
          acc += static_cast<int64_t>(g.rest[i * g.rest_bytes + k]) * b[(k / 4 * g.width + n) * 4 + k % 4];
        store(*g.ep, acc, g.row + i, g.col + n, n, static_cast<char*>(g.c) + i * g.ldc);
      }
    }
  }
}

}  // namespace ref
}  // namespace qgemm
