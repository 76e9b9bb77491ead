#include "kernels/elementary.h"
#include "kernels/vector__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {

void select_f32_1x16(const select_args& g) { elementary::select_loop<V>(g); }

}  // namespace avx512vnni
}  // namespace qgemm
