#include "kernels/epilogue__avx2.h"

namespace qgemm {
namespace avx2 {

void group_finish_f32_1x8(const group_finish_args& g) {
  const Epilogue& e = *g.ep;
  for (int i = 0; i < g.m; ++i) {
    const float* f = g.f + static_cast<ptrdiff_t>(i) * g.width;
    char* line = static_cast<char*>(g.c) + i * g.ldc;
    float scale = g.x_scale;
    if (e.row_scale) scale = e.row_scale[g.row + i] * g.x_scale;
    for (int j = 0; j < g.n; j += 8) {
      const __m256 y = _mm256_fmadd_ps(_mm256_loadu_ps(f + j), _mm256_set1_ps(scale), _mm256_loadu_ps(e.bias + g.col + j));
      store_float8(e, y, g.n - j < 8 ? g.n - j : 8, line + j * out_bytes(e.out));
    }
  }
}

}  // namespace avx2
}  // namespace qgemm
