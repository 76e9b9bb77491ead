#include "kernels/binary_u8__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {

void add_u8_1x64(const add_args& g) { binary<false>(g); }

}  // namespace avx512vnni
}  // namespace qgemm
