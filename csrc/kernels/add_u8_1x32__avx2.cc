#include "kernels/binary_u8__avx2.h"

namespace qgemm {
namespace avx2 {

void add_u8_1x32(const add_args& g) { binary<false>(g); }

}  // namespace avx2
}  // namespace qgemm
