#include "ops/eltwise.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "cpu/error.h"
#include "ops/threads.h"

namespace qgemm {
namespace {

// f(first, count) on shares that start at multiples of 64 elements.
template <class F>
void share_elements(int64_t n, F&& f) {
  const int64_t blocks = (n + 63) / 64;
  parallel_shares(blocks, threads_for(n, kGrainBytes),
                  [&](int64_t b, int64_t e) { f(b * 64, (e * 64 < n ? e * 64 : n) - b * 64); });
}

template <class Args>
void binary(KernelFn<Args> kernel, const Operand8& a, const Operand8& b, uint8_t* c, int64_t ldc, int64_t rows, int64_t n,
            const OutputSpec& out) {
  if (out.type != OutType::u8)
    throw Error(Code::dtype, "a sum or product of two quantized tensors is uint8; dequantize it if need be");
  if (rows <= 0 || n <= 0) return;
  Args k{};
  k.a_scale = a.encoding.scale;
  k.b_scale = b.encoding.scale;
  k.inv_scale = 1.0f / out.scale;
  k.a_zero_point = a.encoding.zero_point;
  k.b_zero_point = b.encoding.zero_point;
  k.zero_point = out.zero_point;
  k.lo = out.lo;
  k.hi = out.hi;
  if (rows == 1 || (a.repeat == 1 && b.repeat == 1 && a.ld == n && b.ld == n && ldc == n)) {
    k.rows = 1;
    share_elements(rows * n, [&](int64_t first, int64_t count) {
      Args g = k;
      g.a = a.data + first;
      g.b = b.data + first;
      g.out = c + first;
      g.n = static_cast<ptrdiff_t>(count);
      kernel(g);
    });
    return;
  }
  k.n = static_cast<ptrdiff_t>(n);
  k.lda = a.repeat == 1 ? static_cast<ptrdiff_t>(a.ld) : 0;
  k.ldb = b.repeat == 1 ? static_cast<ptrdiff_t>(b.ld) : 0;
  k.ldo = static_cast<ptrdiff_t>(ldc);
  parallel_shares(rows, threads_for(rows * n, kGrainBytes), [&](int64_t begin, int64_t end) {
    Args g = k;
    // From one change of a repeated row to the next.
    for (int64_t r = begin, next; r < end; r = next) {
      next = end;
      if (a.repeat != 1) next = std::min(next, (r / a.repeat + 1) * a.repeat);
      if (b.repeat != 1) next = std::min(next, (r / b.repeat + 1) * b.repeat);
      g.a = a.data + r / a.repeat * a.ld;
      g.b = b.data + r / b.repeat * b.ld;
      g.out = c + r * ldc;
      g.rows = static_cast<ptrdiff_t>(next - r);
      kernel(g);
    }
  });
}

}  // namespace

void check_encoding(const char* what, double scale, int64_t zero_point) {
  const float s = static_cast<float>(scale);
  if (!(std::isfinite(s) && s > 0))
    throw Error(Code::quantization, std::string(what) + "_scale must be finite and > 0 in float32, got " + std::to_string(scale) +
                                        "; recalibrate its quantizer");
  if (zero_point < 0 || zero_point > 255)
    throw Error(Code::quantization, std::string(what) + "_zero_point must lie in 0..255, got " + std::to_string(zero_point));
}

void add(const uint8_t* a, const Encoding8& ea, const uint8_t* b, const Encoding8& eb, uint8_t* c, int64_t n,
         const OutputSpec& out) {
  add({a, n, ea}, {b, n, eb}, c, n, 1, n, out);
}

void add(const Operand8& a, const Operand8& b, uint8_t* c, int64_t ldc, int64_t rows, int64_t n, const OutputSpec& out) {
  binary(table().add, a, b, c, ldc, rows, n, out);
}

void mul(const Operand8& a, const Operand8& b, uint8_t* c, int64_t ldc, int64_t rows, int64_t n, const OutputSpec& out) {
  binary(table().mul, a, b, c, ldc, rows, n, out);
}

void lut(const uint8_t* x, const uint8_t* table256, uint8_t* y, int64_t n) {
  const KernelTable& t = table();
  share_elements(n, [&](int64_t first, int64_t count) {
    t.lut({x + first, table256, y + first, static_cast<ptrdiff_t>(count)});
  });
}

void lut(const uint8_t* x, int64_t ldx, const uint8_t* table256, uint8_t* y, int64_t ldy, int64_t rows, int64_t n) {
  if (rows == 1 || (ldx == n && ldy == n)) return lut(x, table256, y, rows * n);
  const KernelTable& t = table();
  parallel_shares(rows, threads_for(rows * n, kGrainBytes), [&](int64_t begin, int64_t end) {
    t.lut({x + begin * ldx, table256, y + begin * ldy, static_cast<ptrdiff_t>(n), static_cast<ptrdiff_t>(end - begin),
           static_cast<ptrdiff_t>(ldx), static_cast<ptrdiff_t>(ldy)});
  });
}

}  // namespace qgemm
