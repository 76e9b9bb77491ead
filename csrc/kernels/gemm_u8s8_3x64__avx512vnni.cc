#include "kernels/gemm_u8s8__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {

void gemm_u8s8_3x64(const gemm_args& g) { gemm<3, 4>(g); }

}  // namespace avx512vnni
}  // namespace qgemm
