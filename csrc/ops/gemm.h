// C[m][n] = epilogue(sum_k A[m][k] * W[n][k]) on packed weights: the driver of every linear layer.
#pragma once
#include <cstddef>
#include <cstdint>

#include "cpu/dispatch.h"
#include "kernels/api.h"
#include "pack/weights.h"

namespace qgemm {

// Where an operation's result goes and on which grid. zero_point, lo, hi are on the u8 grid also for s8 (its own + 128).
struct OutputSpec {
  OutType type = OutType::f32;
  float scale = 1.0f;
  int32_t zero_point = 0, lo = 0, hi = 255;
  float f_lo, f_hi;
};

// Dynamic quantization of A: one scale and zero point a row, or null for the encoding that was packed.
struct RowParams {
  const int32_t* zero_point = nullptr;
  const float* scale = nullptr;
  const int32_t* term = nullptr;  // to be added to each row's accumulators, or null
};

struct PostOp;  // ops/postop.h: a residual sum and a table, applied to the output's bytes while they are in L1

// The kernel for `rows` rows over a panel of `width` columns. A low tile reads its panel more often, and its end overlaps with
// the products of the next one: it is the faster where there are many rows, the panel lies in L1, and a filter tap is not so
// short that going from one to the next, where each has `pointers` of its own, takes as long as its products.
constexpr int64_t kLowRows = 24, kLowPanelBytes = 32 * 1024, kLowTapProducts = 96;
inline const GemmKernel& gemm_kernel(const KernelTable& t, const PackedView& w, int width, int64_t rows, bool pointers = true) {
  const GemmKernel& low = t.low_gemm_for(width);
  if (rows < kLowRows || w.k4() * width * 4 > kLowPanelBytes) return t.gemm_for(width);
  return !pointers || w.taps == 1 || low.mr * (width / 16) * (w.kc / 4) >= kLowTapProducts ? low : t.gemm_for(width);
}

// The panel after p of one set, where prefetching it pays: `rows` of more than one tile read it more than once, so that without
// help memory would rest while every tile but the first is multiplied; the weight is larger than L2; and two panels are not. Else
// null.
const int8_t* panel_ahead(const KernelTable& t, const PackedView& w, int64_t set, int64_t p, int64_t rows);

size_t out_size(OutType t);
// The epilogue that every driver starts from: static encodings of the packed weight, or dynamic ones.
Epilogue make_epilogue(const PackedView& w, const OutputSpec& out, const RowParams& rows);

// The s8 panel of a weight, expanded from nibbles into `scratch` (panel_s8_bytes rounded up to 128) when it is stored so.
const int8_t* panel_as_s8(const KernelTable& t, const PackedView& w, int64_t group, int64_t panel, int8_t* scratch);

// a: [m] rows of w.k bytes, lda bytes apart. c: [m] rows of w.n elements, ldc bytes apart.
void linear(const PackedView& w, const uint8_t* a, int64_t m, ptrdiff_t lda, void* c, ptrdiff_t ldc, const OutputSpec& out,
            const RowParams& rows = {}, const PostOp* post = nullptr);

// The same on a kernel table and a number of threads of the caller's choice, for drivers that hold them already.
void linear_on(const KernelTable& t, const PackedView& w, const uint8_t* a, int64_t m, ptrdiff_t lda, void* c, ptrdiff_t ldc,
               const OutputSpec& out, const RowParams& rows, int threads, const PostOp* post = nullptr);

// 16-bit activations, exact: two 8-bit products and a sum in fp64. The weight is packed with the default (dynamic) input
// encoding; x_scale and x_zero_point (0..65535) come here. is_signed: `a` holds s16, and the zero point is 32768 above its own.
// c: fp32, or 8 or 16 bits (out16) on the grid of `out`, whose zero_point, lo, hi are then of that grid, signed or not.
struct Encoding16 {
  float scale;
  int32_t zero_point;
  bool is_signed = false;
};
void linear16(const PackedView& w, const uint16_t* a, int64_t m, int64_t lda, void* c, ptrdiff_t ldc, const OutputSpec& out,
              bool out16, const Encoding16& x);

// fp32 in, fp32 out: rows (or the whole of x) are quantized to u8 on the way.
void linear_dynamic(const PackedView& w, const float* x, int64_t m, ptrdiff_t ldx, float* c, ptrdiff_t ldc, bool per_row,
                    bool symmetric, float lo, float hi);

}  // namespace qgemm
