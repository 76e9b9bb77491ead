#include "kernels/elementary.h"
#include "kernels/vector__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {

void arith_f32_1x16(const arith_args& g) { elementary::run<V>(g); }

}  // namespace avx512vnni
}  // namespace qgemm
