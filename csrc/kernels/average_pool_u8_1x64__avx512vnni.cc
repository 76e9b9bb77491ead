#include "kernels/average_pool_u8__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {

void average_pool_u8_1x64(const average_pool_args& g) { average_pool<void>(g); }

}  // namespace avx512vnni
}  // namespace qgemm
