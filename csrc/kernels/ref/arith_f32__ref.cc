#include "kernels/elementary.h"
#include "kernels/ref/vector__ref.h"

namespace qgemm {
namespace ref {

void arith_f32_1x1(const arith_args& g) { elementary::run<V>(g); }

}  // namespace ref
}  // namespace qgemm
