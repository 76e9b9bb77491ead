#include "kernels/binary_u8__avx2.h"

namespace qgemm {
namespace avx2 {

void mul_u8_1x32(const mul_args& g) { binary<true>(g); }

}  // namespace avx2
}  // namespace qgemm
