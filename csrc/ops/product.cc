#include "ops/product.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu/error.h"
#include "ops/threads.h"

namespace qgemm {
namespace {

// Rows that pass over a block of B before the next one: their part of A stays in L2 beside it.
constexpr int64_t kRows = 96;
// A fused multiply-add of fp32 takes about as long as four of bytes.
constexpr int64_t kGrain = kGrainMacs / 4;

int64_t panels_of(int64_t n) { return (n + kPanel - 1) / kPanel; }
int width_of(int64_t n, int64_t panel) {
  return static_cast<int>((std::min<int64_t>(kPanel, n - panel * kPanel) + 15) / 16 * 16);
}

// One panel of B: columns [first, first + n).
void pack_panel(const float* b, int64_t ldb, bool transposed, int64_t k, int64_t first, int64_t n, int width, float* to) {
  if (!transposed) {
    for (int64_t i = 0; i < k; ++i, to += width) {
      std::memcpy(to, b + i * ldb + first, static_cast<size_t>(n) * 4);
      std::fill(to + n, to + width, 0.0f);
    }
    return;
  }
  constexpr int64_t kBlock = 16;  // a square of 16 x 16 floats is a cache line wide on both sides
  for (int64_t k0 = 0; k0 < k; k0 += kBlock)
    for (int64_t j0 = 0; j0 < width; j0 += kBlock)
      for (int64_t i = k0; i < std::min(k, k0 + kBlock); ++i)
        for (int64_t j = j0; j < j0 + kBlock; ++j) to[i * width + j] = j < n ? b[(first + j) * ldb + i] : 0.0f;
}

struct Job {
  const KernelTable& t;
  const float* a;
  int64_t lda;
  const FloatPanels& b;
  const float* bias;
  char* c;
  ptrdiff_t ldc;
  const OutputSpec& out;
};

// Rows [m0, m1) of one panel of columns.
void block(const Job& j, int64_t panel, int64_t m0, int64_t m1) {
  static thread_local Scratch<float> scratch, zeros;
  const bool floats = j.out.type == OutType::f32;
  product_args g{};
  g.lda = static_cast<ptrdiff_t>(j.lda);
  g.width = width_of(j.b.n, panel);
  g.n = static_cast<int32_t>(std::min<int64_t>(kPanel, j.b.n - panel * kPanel));
  g.m = static_cast<ptrdiff_t>(m1 - m0);
  char* to = j.c + m0 * j.ldc + panel * kPanel * static_cast<int64_t>(out_size(j.out.type));
  g.c = floats ? reinterpret_cast<float*>(to) : scratch.get((m1 - m0) * g.width);
  g.ldc = floats ? j.ldc / 4 : g.width;
  const float* bias = j.bias ? j.bias + panel * kPanel : nullptr;
  if (!bias) {
    float* none = zeros.get(kPanel);
    std::fill(none, none + kPanel, 0.0f);
    bias = none;
  }
  const float* b = j.b.data + panel * kPanel * j.b.k;
  int64_t k0 = 0;
  do {
    const int64_t k1 = std::min(j.b.k, k0 + kProductBlock);
    g.a = j.a + m0 * j.lda + k0;
    g.b = b + k0 * g.width;
    g.k = static_cast<int32_t>(k1 - k0);
    g.more = k0 > 0;
    g.bias = k1 == j.b.k ? bias : nullptr;
    j.t.product(g);
    k0 = k1;
  } while (k0 < j.b.k);
  for (int64_t i = 0; i < g.m; ++i) {
    float* y = g.c + i * g.ldc;
    if (!floats)
      j.t.quantize({y, to + i * j.ldc, g.n, 1.0f / j.out.scale, j.out.zero_point, j.out.lo, j.out.hi, 1});
    else if (std::isfinite(j.out.f_lo) || std::isfinite(j.out.f_hi)) {
      j.t.arith({Binary::max, y, &j.out.f_lo, 1, 0, y, g.n});
      j.t.arith({Binary::min, y, &j.out.f_hi, 1, 0, y, g.n});
    }
  }
}

void product_on(const Job& j, int64_t m, int threads) {
  const int64_t panels = panels_of(j.b.n), blocks = std::max<int64_t>((m + kRows - 1) / kRows, 1);
  parallel_shares(panels * blocks, threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) block(j, i / blocks, m * (i % blocks) / blocks, m * (i % blocks + 1) / blocks);
  });
}

void check(const OutputSpec& out) {
  if (out.type != OutType::f32 && out.type != OutType::u8)
    throw Error(Code::dtype, "a product of floats has a float32 or uint8 result");
}

}  // namespace

void pack_floats(const float* b, int64_t ldb, bool transposed, int64_t k, int64_t n, float* panels) {
  for (int64_t p = 0; p < panels_of(n); ++p)
    pack_panel(b, ldb, transposed, k, p * kPanel, std::min<int64_t>(kPanel, n - p * kPanel), width_of(n, p),
               panels + p * kPanel * k);
}

void product(const float* a, int64_t m, int64_t lda, const FloatPanels& b, const float* bias, void* c, ptrdiff_t ldc,
             const OutputSpec& out) {
  check(out);
  if (m == 0 || b.n == 0) return;
  product_on({table(), a, lda, b, bias, static_cast<char*>(c), ldc, out}, m,
             threads_for(m * b.n * std::max<int64_t>(b.k, 1), kGrain));
}

void product_batch(int64_t batch, int64_t m, int64_t n, int64_t k, const FloatMatrix& a, const FloatMatrix& b, void* c,
                   const Batches& c_batches, ptrdiff_t ldc, const OutputSpec& out) {
  check(out);
  if (batch == 0 || m == 0 || n == 0) return;
  const KernelTable& t = table();
  const int threads = threads_for(batch * m * n * std::max<int64_t>(k, 1), kGrain);
  const bool by_batch = batch >= threads;
  parallel_shares(by_batch ? batch : 1, threads, [&](int64_t begin, int64_t end) {
    static thread_local Scratch<float> panels;
    for (int64_t i = begin; i < end; ++i) {
      float* packed = panels.get(FloatPanels::floats(k, n));
      pack_floats(b.data + b.batches[i], b.ld, b.transposed, k, n, packed);
      const FloatPanels view{packed, k, n};
      product_on({t, a.data + a.batches[i], a.ld, view, nullptr, static_cast<char*>(c) + c_batches[i], ldc, out}, m,
                 by_batch ? 1 : threads);
    }
  });
}

}  // namespace qgemm
