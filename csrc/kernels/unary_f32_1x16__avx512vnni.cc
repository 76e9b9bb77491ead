#include "kernels/elementary.h"
#include "kernels/vector__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {

void unary_f32_1x16(const unary_args& g) { elementary::run<V>(g); }

}  // namespace avx512vnni
}  // namespace qgemm
