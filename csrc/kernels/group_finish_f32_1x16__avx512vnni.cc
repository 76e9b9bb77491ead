#include "kernels/epilogue__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {

void group_finish_f32_1x16(const group_finish_args& g) {
  const Epilogue& e = *g.ep;
  for (int i = 0; i < g.m; ++i) {
    const float* f = g.f + static_cast<ptrdiff_t>(i) * g.width;
    char* line = static_cast<char*>(g.c) + i * g.ldc;
    float scale = g.x_scale;
    if (e.row_scale) scale = e.row_scale[g.row + i] * g.x_scale;
    for (int j = 0; 16 * j < g.n; ++j) {
      const __mmask16 k = lanes16(valid16(g.n, j));
      const __m512 y =
          _mm512_fmadd_ps(_mm512_loadu_ps(f + 16 * j), _mm512_set1_ps(scale), _mm512_loadu_ps(e.bias + g.col + 16 * j));
      if (e.out == OutType::f32) {
        const __m512 v = _mm512_min_ps(_mm512_max_ps(y, _mm512_set1_ps(e.f_lo)), _mm512_set1_ps(e.f_hi));
        _mm512_mask_storeu_ps(reinterpret_cast<float*>(line) + 16 * j, k, v);
      } else {
        _mm_mask_storeu_epi8(line + 16 * j, k, to_bytes16(e, to_grid(e, y)));
      }
    }
  }
}

}  // namespace avx512vnni
}  // namespace qgemm
