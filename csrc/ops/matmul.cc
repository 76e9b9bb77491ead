#include "ops/matmul.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "cpu/error.h"
#include "ops/threads.h"

namespace qgemm {
namespace {

// The right operand's zero point on the grid of the s8 panel.
int32_t zero_point_s8(const MatmulOperand& b) { return b.is_signed ? b.zero_point : b.zero_point - 128; }

// The right operand in the form the linear driver takes: panels and arrays in scratch, no packed buffer behind them.
struct Packed {
  Scratch<int8_t> panels;
  Scratch<int32_t> arrays;
  PackedView view;

  void shape(int64_t n, int64_t k, const MatmulOperand& a, const MatmulOperand& b) {
    PackedView& v = view;
    v = PackedView{};
    v.kind = PackedKind::linear;
    v.n = v.cout_g = v.cout_s = n;
    v.k = v.kc = k;
    v.groups = v.taps = v.group_count = 1;
    v.bits = 8;
    v.n_padded = v.n_group_padded = (n + kPanelAlign - 1) / kPanelAlign * kPanelAlign;
    v.panels_per_group = (n + kPanel - 1) / kPanel;
    v.panel_stride = v.panel_s8_bytes(kPanel);
    v.panels = reinterpret_cast<const uint8_t*>(panels.get(v.group_panel_bytes() + 64));
    int32_t* p = arrays.get(4 * v.n_padded);
    v.correction = p;
    v.colsum = p + v.n_padded;
    float *scale = reinterpret_cast<float*>(p + 2 * v.n_padded), *bias = reinterpret_cast<float*>(p + 3 * v.n_padded);
    v.scale = v.w_scale = scale;
    v.bias = bias;
    const float s = static_cast<float>(double(a.scale) * double(b.scale));
    for (int64_t i = 0; i < v.n_padded; ++i) {
      scale[i] = s;
      bias[i] = 0.0f;
    }
    v.y_bound = static_cast<float>(double(k) * 255.0 * 255.0 * s * 1.0001);
  }

  // Panels [p0, p1) of one matrix.
  void fill(const KernelTable& t, const uint8_t* data, const MatmulOperand& a, const MatmulOperand& b, int64_t p0, int64_t p1) {
    PackedView& v = view;
    const int32_t za = a.is_signed ? a.zero_point + 128 : a.zero_point, zb = zero_point_s8(b);
    int32_t *colsum = const_cast<int32_t*>(v.colsum), *correction = const_cast<int32_t*>(v.correction);
    for (int64_t p = p0; p < p1; ++p) {
      pack_b_args g{};
      g.b = data + p * kPanel * (b.transposed ? b.ld : 1);
      g.ldb = b.ld;
      g.transposed = b.transposed;
      g.flip = b.is_signed ? 0 : 0x80;
      g.k = static_cast<int32_t>(v.k);
      g.n = v.panel_columns(p);
      g.width = v.panel_width(p);
      g.panel = const_cast<int8_t*>(reinterpret_cast<const int8_t*>(v.panel(0, p)));
      g.colsum = colsum + p * kPanel;
      t.pack_b(g);
      for (int64_t i = p * kPanel; i < p * kPanel + g.width; ++i)
        correction[i] = -za * (colsum[i] - static_cast<int32_t>(v.k) * zb);
    }
  }
};

// Whether the kernels can read A where it lies: u8 rows of k.
bool in_place(const MatmulOperand& a) { return !a.is_signed && !a.transposed; }

// Rows [m0, m1) of a signed or transposed A as u8 rows of k, k bytes apart.
void copy_left(const KernelTable& t, const MatmulOperand& a, const uint8_t* data, int64_t m0, int64_t m1, int64_t k,
               uint8_t* out) {
  if (!a.transposed) return t.flip({data + m0 * a.ld, out + m0 * k, m1 - m0, k, a.ld});
  const uint8_t bits = a.is_signed ? 0x80 : 0;
  constexpr int64_t kBlock = 64;  // a square of 64 x 64 bytes stays in L1 on both sides
  for (int64_t i0 = m0; i0 < m1; i0 += kBlock)
    for (int64_t j0 = 0; j0 < k; j0 += kBlock)
      for (int64_t i = i0; i < m1 && i < i0 + kBlock; ++i)
        for (int64_t j = j0; j < k && j < j0 + kBlock; ++j) out[i * k + j] = data[j * a.ld + i] ^ bits;
}

// What rows [m0, m1) of A, u8, add to their accumulators on account of B's zero point.
void fill_terms(const KernelTable& t, const uint8_t* rows, int64_t lda, int64_t k, const MatmulOperand& b, int64_t m0, int64_t m1,
                int32_t* terms) {
  const int32_t zb = zero_point_s8(b);
  t.row_sum({rows + m0 * lda, lda, m1 - m0, k, terms + m0});
  for (int64_t i = m0; i < m1; ++i) terms[i] *= -zb;
}

void check(const MatmulOperand& x, const char* name) {
  if (!(std::isfinite(x.scale) && x.scale > 0))
    throw Error(Code::quantization,
                std::string("matmul: ") + name + "_scale must be finite and > 0, got " + std::to_string(x.scale));
  const int lo = x.is_signed ? -128 : 0;
  if (x.zero_point < lo || x.zero_point > lo + 255)
    throw Error(Code::quantization, std::string("matmul: ") + name + "_zero_point must lie in " + std::to_string(lo) + ".." +
                                        std::to_string(lo + 255) + ", got " + std::to_string(x.zero_point));
}

}  // namespace

void matmul(int64_t batch, int64_t m, int64_t n, int64_t k, const MatmulOperand& a, const MatmulOperand& b, void* c,
            const Batches& c_batches, ptrdiff_t ldc, const OutputSpec& out) {
  check(a, "a");
  check(b, "b");
  if (!std::isfinite(a.scale * b.scale))
    throw Error(Code::quantization, "matmul: a_scale times b_scale is not finite in float32; recalibrate their quantizers");
  auto reach = [](const MatmulOperand& x) {
    const int64_t z = x.is_signed ? x.zero_point + 128 : x.zero_point;
    return z > 255 - z ? z : 255 - z;
  };
  if (k * reach(a) * reach(b) > std::numeric_limits<int32_t>::max())
    throw Error(Code::overflow,
                "matmul: K = " + std::to_string(k) + " can overflow the int32 accumulator of two 8-bit operands; split K");
  if (batch == 0 || m == 0 || n == 0) return;
  const KernelTable& t = table();
  char* first = static_cast<char*>(c);
  const int threads = threads_for(batch * m * n * (k > 0 ? k : 1), kGrainMacs);
  const bool has_terms = zero_point_s8(b) != 0;
  if (batch >= threads && batch > 1) {
    parallel_shares(batch, threads, [&](int64_t begin, int64_t end) {
      static thread_local Packed packed;
      static thread_local Scratch<uint8_t> copy;
      static thread_local Scratch<int32_t> row_terms;
      packed.shape(n, k, a, b);
      RowParams terms;
      for (int64_t i = begin; i < end; ++i) {
        packed.fill(t, b.data + b.batches[i], a, b, 0, packed.view.panels_per_group);
        const uint8_t* rows = a.data + a.batches[i];
        if (!in_place(a)) {
          uint8_t* own = copy.get(m * k);
          copy_left(t, a, rows, 0, m, k, own);
          rows = own;
        }
        const int64_t lda = in_place(a) ? a.ld : k;
        if (has_terms) {
          int32_t* own = row_terms.get(m);
          fill_terms(t, rows, lda, k, b, 0, m, own);
          terms.term = own;
        }
        linear_on(t, packed.view, rows, m, lda, first + c_batches[i], ldc, out, terms, 1);
      }
    });
    return;
  }
  static thread_local Packed own;
  static thread_local Scratch<uint8_t> copy;
  static thread_local Scratch<int32_t> row_terms;
  Packed& packed = own;
  packed.shape(n, k, a, b);
  int32_t* const own_terms = has_terms ? row_terms.get(m) : nullptr;
  RowParams terms;
  terms.term = own_terms;
  for (int64_t i = 0; i < batch; ++i) {
    const uint8_t* data = b.data + b.batches[i];
    const uint8_t* rows = a.data + a.batches[i];
    uint8_t* const own_rows = in_place(a) ? nullptr : copy.get(m * k);
    const uint8_t* const left = own_rows ? own_rows : rows;
    const int64_t panels = packed.view.panels_per_group, lda = own_rows ? k : a.ld;
    parallel_shares(threads, threads, [&](int64_t begin, int64_t end) {  // each a part of both operands
      packed.fill(t, data, a, b, panels * begin / threads, panels * end / threads);
      const int64_t m0 = m * begin / threads, m1 = m * end / threads;
      if (own_rows) copy_left(t, a, rows, m0, m1, k, own_rows);
      if (own_terms) fill_terms(t, left, lda, k, b, m0, m1, own_terms);
    });
    linear_on(t, packed.view, left, m, lda, first + c_batches[i], ldc, out, terms, threads);
  }
}

}  // namespace qgemm
