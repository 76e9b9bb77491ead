#include "kernels/elementary.h"
#include "kernels/vector__avx2.h"

namespace qgemm {
namespace avx2 {

void unary_f32_1x8(const unary_args& g) { elementary::run<V>(g); }

}  // namespace avx2
}  // namespace qgemm
