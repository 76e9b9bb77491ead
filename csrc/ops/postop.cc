#include "ops/postop.h"

#include <string>

#include "cpu/error.h"

namespace qgemm {

void PostOp::check(const char* op, const OutputSpec& product) const {
  if (!any()) return;
  if (product.type != OutType::u8)
    throw Error(Code::dtype, std::string(op) + ": a residual or a table follows a uint8 output only; ask for uint8");
  if (!residual) return;
  if (sum.type != OutType::u8) throw Error(Code::dtype, std::string(op) + ": the sum with a residual is uint8");
  check_encoding("residual", residual_encoding.scale, residual_encoding.zero_point);
}

void apply_post(const KernelTable& t, const PostOp& post, const OutputSpec& product, void* c, ptrdiff_t ldc, int64_t row,
                int64_t rows, int64_t col, int64_t n) {
  uint8_t* out = static_cast<uint8_t*>(c);
  if (post.residual) {
    add_args g{};
    g.a = out;
    g.b = post.residual + row * post.residual_stride + col;
    g.out = out;
    g.rows = static_cast<ptrdiff_t>(rows);
    g.n = static_cast<ptrdiff_t>(n);
    g.lda = ldc;
    g.ldb = static_cast<ptrdiff_t>(post.residual_stride);
    g.ldo = ldc;
    g.a_scale = product.scale;
    g.b_scale = post.residual_encoding.scale;
    g.inv_scale = 1.0f / post.sum.scale;
    g.a_zero_point = product.zero_point;
    g.b_zero_point = post.residual_encoding.zero_point;
    g.zero_point = post.sum.zero_point;
    g.lo = post.sum.lo;
    g.hi = post.sum.hi;
    t.add(g);
  }
  if (post.table) t.lut({out, post.table, out, static_cast<ptrdiff_t>(n), static_cast<ptrdiff_t>(rows), ldc, ldc});
}

}  // namespace qgemm
