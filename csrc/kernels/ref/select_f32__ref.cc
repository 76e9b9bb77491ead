#include "kernels/elementary.h"
#include "kernels/ref/vector__ref.h"

namespace qgemm {
namespace ref {

void select_f32_1x1(const select_args& g) { elementary::select_loop<V>(g); }

}  // namespace ref
}  // namespace qgemm
