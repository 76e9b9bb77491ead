#include "kernels/binary_u8__avx512vbmi.h"

namespace qgemm {
namespace avx512vbmi {

void add_u8_1x64(const add_args& g) { binary<false>(g); }

}  // namespace avx512vbmi
}  // namespace qgemm
