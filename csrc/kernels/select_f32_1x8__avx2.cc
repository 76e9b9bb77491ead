#include "kernels/elementary.h"
#include "kernels/vector__avx2.h"

namespace qgemm {
namespace avx2 {

void select_f32_1x8(const select_args& g) { elementary::select_loop<V>(g); }

}  // namespace avx2
}  // namespace qgemm
