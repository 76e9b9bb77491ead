#include "kernels/gemm_u8s8__avx512vnni.h"

namespace qgemm {
namespace avx512vnni {

void gemm_u8s8_10x32(const gemm_args& g) { gemm<10, 2>(g); }

}  // namespace avx512vnni
}  // namespace qgemm
