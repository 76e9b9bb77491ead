#include "kernels/binary_u8__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {

void mul_u8_1x64(const mul_args& g) { binary<true>(g); }

}  // namespace avx512vnni
}  // namespace qgemm
