#include "kernels/encoding.h"
#include "kernels/epilogue__avx2.h"

namespace qgemm {
namespace avx2 {

void minmax_f32_1x8(const minmax_args&);
void quantize_f32_1x8(const quantize_args&);

void quantize_rows_f32u8_1x8(const quantize_rows_args& g) {
  *g.bad = -1;
  for (ptrdiff_t r = 0; r < g.rows; ++r) {
    const float* x = g.x + r * g.ldx;
    float lo, hi;
    bool finite;
    minmax_f32_1x8({x, g.n, &lo, &hi, &finite});
    if (!finite) {
      *g.bad = r;
      return;
    }
    const DynamicEncoding e = encoding_of(lo, hi, g.symmetric);
    quantize_f32_1x8({x, g.q + r * g.ldq, g.n, 1.0f / e.scale, e.zero_point, 0, 255, 1});
    g.scale[r] = e.scale;
    g.zero_point[r] = e.zero_point;
  }
}

}  // namespace avx2
}  // namespace qgemm
