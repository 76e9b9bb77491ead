// Which kernel runs each operation. Selection is a walk over kernels.def: the ISA paths this CPU can run, best first, and for
// each operation the first path that has it. QGEMM_ISA (or force_isa) starts the walk lower down; the reference ends every walk.
#pragma once
#include <string>
#include <vector>

#include "kernels/api.h"

namespace qgemm {

enum class Isa : int { ref = 0, avx2 = 1, avx512vnni = 2, avx512vbmi = 3 };
constexpr int kIsaCount = 4;
const char* isa_name(Isa isa);

struct KernelRow {
  const char* op;
  const char* types;
  int mr, nr;
  Isa isa;
  const char* name;
  void (*fn)();
};
// Every row of kernels.def, in order.
const std::vector<KernelRow>& kernel_rows();

bool isa_in_build(Isa isa);
bool isa_available(Isa isa);  // in this build and executable by this CPU
Isa active_isa();
// Forces a path for the whole process; nullptr returns to QGEMM_ISA or the best. Throws Error(isa) when it cannot run.
void force_isa(const char* name);
std::string explain();

template <class Args>
using KernelFn = void (*)(const Args&);

struct GemmKernel {
  KernelFn<gemm_args> fn;
  int mr;
  const char* name;
};

// The selected kernels of one ISA path. `gemm_for(width)` takes a panel width of 16, 32, 48 or 64.
struct KernelTable {
  Isa isa;
  GemmKernel gemm[4], low_gemm[4];  // high tiles, and low ones (the same where a path has but one)
  KernelFn<gemm4_args> gemm4;
  KernelFn<product_args> product;
  int product_rows;  // of its tiles
  KernelFn<group_finish_args> group_finish;
  KernelFn<unpack4_args> unpack4;
  KernelFn<depthwise_args> depthwise;
  KernelFn<quantize_args> quantize;
  KernelFn<dequantize_args> dequantize;
  KernelFn<minmax_args> minmax;
  KernelFn<quantize_rows_args> quantize_rows;
  KernelFn<add_args> add;
  KernelFn<sum_args> sum;
  KernelFn<mul_args> mul;
  KernelFn<lut_args> lut;
  KernelFn<gather_args> gather;
  KernelFn<tails_args> tails;
  KernelFn<lines_args> lines;
  KernelFn<interleave3_args> interleave3;
  KernelFn<permute_args> permute;
  KernelFn<lerp_args> lerp;
  KernelFn<mix_args> mix;
  KernelFn<mix2_args> mix2;
  KernelFn<max_pool_args> max_pool;
  KernelFn<average_pool_args> average_pool;
  KernelFn<sum_pool_args> sum_pool;
  KernelFn<fdepthwise_args> fdepthwise;
  KernelFn<fmax_pool_args> fmax_pool;
  KernelFn<mean_pool_args> mean_pool;
  KernelFn<requantize_args> requantize;
  KernelFn<pack_b_args> pack_b;
  KernelFn<pack_w_args> pack_w;
  KernelFn<flip_args> flip;
  KernelFn<row_sum_args> row_sum;
  KernelFn<combine16_args> combine16;
  KernelFn<softmax_args> softmax;
  KernelFn<norm_args> norm;
  KernelFn<unary_args> unary;
  KernelFn<arith_args> arith;
  KernelFn<select_args> select;

  const GemmKernel& gemm_for(int width) const { return gemm[width / 16 - 1]; }
  const GemmKernel& low_gemm_for(int width) const { return low_gemm[width / 16 - 1]; }
};

// The table of the active ISA. Cheap: one atomic load.
const KernelTable& table();
// The table of one ISA, whether active or not; for tests.
const KernelTable& table_of(Isa isa);

}  // namespace qgemm
