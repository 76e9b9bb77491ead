#include "kernels/binary_u8__avx512vbmi.h"

namespace qgemm {
namespace avx512vbmi {

void mul_u8_1x64(const mul_args& g) { binary<true>(g); }

}  // namespace avx512vbmi
}  // namespace qgemm
