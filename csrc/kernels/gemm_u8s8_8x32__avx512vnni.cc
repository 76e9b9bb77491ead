#include "kernels/gemm_u8s8__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {

void gemm_u8s8_8x32(const gemm_args& g) { gemm<8, 2>(g); }

}  // namespace avx512vnni
}  // namespace qgemm
