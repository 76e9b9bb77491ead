// One tester an operation of kernels.def. Each holds a kernel to the reference kernel of its operation, byte for byte, over
// random cases with every operand between guard pages and the output between canaries.
#pragma once
#include "support.h"

namespace qgemm {
namespace test {

void test_gemm(const KernelRow& row);
void test_gemm4(const KernelRow& row);
void test_product(const KernelRow& row);
void test_group_finish(const KernelRow& row);
void test_unpack4(const KernelRow& row);
void test_depthwise(const KernelRow& row);
void test_quantize(const KernelRow& row);
void test_dequantize(const KernelRow& row);
void test_minmax(const KernelRow& row);
void test_quantize_rows(const KernelRow& row);
void test_add(const KernelRow& row);
void test_mul(const KernelRow& row);
void test_sum(const KernelRow& row);
void test_lut(const KernelRow& row);
void test_gather(const KernelRow& row);
void test_tails(const KernelRow& row);
void test_lines(const KernelRow& row);
void test_interleave3(const KernelRow& row);
void test_permute(const KernelRow& row);
void test_lerp(const KernelRow& row);
void test_mix(const KernelRow& row);
void test_mix2(const KernelRow& row);
void test_max_pool(const KernelRow& row);
void test_average_pool(const KernelRow& row);
void test_sum_pool(const KernelRow& row);
void test_fdepthwise(const KernelRow& row);
void test_fmax_pool(const KernelRow& row);
void test_mean_pool(const KernelRow& row);
void test_requantize(const KernelRow& row);
void test_pack_b(const KernelRow& row);
void test_pack_w(const KernelRow& row);
void test_flip(const KernelRow& row);
void test_row_sum(const KernelRow& row);
void test_combine16(const KernelRow& row);
void test_softmax(const KernelRow& row);
void test_norm(const KernelRow& row);
void test_unary(const KernelRow& row);
void test_arith(const KernelRow& row);
void test_select(const KernelRow& row);

// A random epilogue whose arrays lie in guarded memory: [n] arrays of `columns` elements, [m] arrays of `rows`.
class EpilogueMaker {
 public:
  EpilogueMaker();
  // accumulate: OutType::f32_accumulate is among the output types. row_arrays: the [m] arrays may be present. typical: the size
  // of an accumulator, which the scales follow, so that outputs spread over the grid.
  const Epilogue& make(Rng& rng, int64_t rows, int64_t columns, double typical, bool accumulate, bool row_arrays, Side side);
  // "u8 rows:zs- zp=3 [0,255]", for messages.
  std::string describe() const;

 private:
  Epilogue e_;
  Guarded correction_, scale_, bias_, colsum_, w_zero_point_, row_zero_point_, row_scale_, row_sum_, row_term_;
};

inline int64_t element_size(OutType t) { return t == OutType::u8 || t == OutType::s8 ? 1 : 4; }

// Fails the test unless both outputs hold the same bytes and the canaries of `got` stand. False on failure, to stop a loop.
bool same_output(const Output& got, const Output& want, int64_t rows, int64_t row_bytes);

}  // namespace test
}  // namespace qgemm
