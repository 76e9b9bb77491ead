#include "ops/product.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu/error.h"
#include "kernels/product_cut.h"
#include "ops/product_job.h"
#include "ops/threads.h"

namespace qgemm {
namespace {

// Rows that pass over a block of B before the next one: their part of A stays in L2 beside it.
constexpr int64_t kRows = 96;
constexpr int64_t kPointers = 4096;  // of a block of pixels
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

// Pointers of the output pixels [first, first + m): [taps][m].
void point(const ProductJob& j, int64_t first, int64_t m, const float** out) {
  const Window& g = *j.window;
  const int64_t oh = g.out_h(), ow = g.out_w(), image = g.h * g.w * g.pixel();
  for (int64_t r = 0; r < m; ++r) {
    const int64_t p = first + r, ox = p % ow, oy = p / ow % oh;
    const float* base = j.a + p / (oh * ow) * image;
    const float** to = out + r;
    for (int64_t ky = 0; ky < g.kh; ++ky) {
      const int64_t iy = oy * g.stride_h - g.top + ky * g.dilation_h;
      const bool inside = iy >= 0 && iy < g.h;
      for (int64_t kx = 0; kx < g.kw; ++kx, to += m) {
        const int64_t ix = ox * g.stride_w - g.left + kx * g.dilation_w;
        *to = inside && ix >= 0 && ix < g.w ? base + (iy * g.w + ix) * g.pixel() : j.padding;
      }
    }
  }
}

// Rows [m0, m1) of one panel of a group's columns. pointers: of these rows, tile after tile.
void block(const ProductJob& j, int64_t group, int64_t panel, int64_t m0, int64_t m1, const float* const* pointers) {
  static thread_local Scratch<float> scratch, zeros;
  const bool floats = j.out.type == OutType::f32;
  const int64_t column = group * j.n + panel * kPanel, k = j.k();
  product_args g{};
  g.a = pointers;
  g.base = j.a + m0 * j.lda;
  g.lda = static_cast<ptrdiff_t>(j.lda);
  g.offset = static_cast<ptrdiff_t>(group * j.kc);
  g.taps = static_cast<int32_t>(j.taps);
  g.kc = static_cast<int32_t>(j.kc);
  g.m = static_cast<int32_t>(m1 - m0);
  g.tile_rows = j.t.product_rows;
  g.width = width_of(j.n, panel);
  g.n = static_cast<int32_t>(std::min<int64_t>(kPanel, j.n - panel * kPanel));
  g.lo = floats ? j.out.f_lo : -INFINITY;
  g.hi = floats ? j.out.f_hi : INFINITY;
  char* to = j.c + m0 * j.ldc + column * static_cast<int64_t>(out_size(j.out.type));
  g.c = floats ? reinterpret_cast<float*>(to) : scratch.get((m1 - m0) * g.width);
  g.ldc = floats ? j.ldc / 4 : g.width;
  const float* bias = j.bias ? j.bias + column : nullptr;
  if (!bias) {
    float* none = zeros.get(kPanel);
    std::fill(none, none + kPanel, 0.0f);
    bias = none;
  }
  const float* b = j.panels + group * FloatPanels::floats(k, j.n) + panel * kPanel * k;
  int64_t k0 = 0;
  do {
    const int64_t k1 = std::min(k, k0 + kProductBlock);
    g.tap = static_cast<int32_t>(j.kc ? k0 / j.kc : 0);
    g.first = static_cast<int32_t>(j.kc ? k0 % j.kc : 0);
    g.b = b + k0 * g.width;
    g.k = static_cast<int32_t>(k1 - k0);
    g.more = k0 > 0;
    g.bias = k1 == k ? bias : nullptr;
    j.t.product(g);
    k0 = k1;
  } while (k0 < k);
  if (floats) return;
  for (int64_t i = 0; i < g.m; ++i)
    j.t.quantize({g.c + i * g.ldc, to + i * j.ldc, g.n, 1.0f / j.out.scale, j.out.zero_point, j.out.lo, j.out.hi, 1});
}

}  // namespace

void pack_floats(const float* b, int64_t ldb, bool transposed, int64_t k, int64_t n, float* panels) {
  for (int64_t p = 0; p < panels_of(n); ++p)
    pack_panel(b, ldb, transposed, k, p * kPanel, std::min<int64_t>(kPanel, n - p * kPanel), width_of(n, p),
               panels + p * kPanel * k);
}

int ProductJob::threads() const { return threads_for(m * n * groups * std::max<int64_t>(k(), 1), kGrain); }

void check_product_result(const OutputSpec& out) {
  if (out.type != OutType::f32 && out.type != OutType::u8)
    throw Error(Code::dtype, "a product of floats has a float32 or uint8 result");
}

void run(const ProductJob& j, int threads) {
  const int64_t panels = panels_of(j.n), all = j.groups * panels;
  const int64_t rows = j.window ? std::clamp<int64_t>(kPointers / j.taps, 4 * j.t.product_rows, kRows) : kRows;
  int64_t blocks = std::max<int64_t>((j.m + rows - 1) / rows, 1);
  if (all * blocks % threads) blocks = (blocks + threads - 1) / threads * threads;
  parallel_shares(all * blocks, threads, [&](int64_t begin, int64_t end) {
    static thread_local Scratch<const float*> table;
    const float** pointers = j.window ? table.get((j.m + blocks - 1) / blocks * j.taps) : nullptr;
    int64_t filled = -1;
    for (int64_t i = begin; i < end; ++i) {
      // The pointers of a block of rows serve all panels; without pointers a panel serves all blocks.
      const int64_t b = j.window ? i / all : i % blocks, p = j.window ? i % all : i / blocks;
      const int64_t m0 = j.m * b / blocks, m1 = j.m * (b + 1) / blocks;
      if (j.window && filled != b) {
        const auto count = static_cast<int32_t>(m1 - m0);
        for (int32_t r = 0, height; r < count; r += height) {
          height = product_tile(count - r, j.t.product_rows);
          point(j, m0 + r, height, pointers + r * j.taps);
        }
        filled = b;
      }
      block(j, p / panels, p % panels, m0, m1, pointers);
    }
  });
}

void product(const float* a, int64_t m, int64_t lda, const FloatPanels& b, const float* bias, void* c, ptrdiff_t ldc,
             const OutputSpec& out) {
  check_product_result(out);
  if (m == 0 || b.n == 0) return;
  const ProductJob j{table(), m, b.n, 1, 1, b.k, a, lda, nullptr, nullptr, b.data, bias, static_cast<char*>(c), ldc, out};
  run(j, j.threads());
}

void product_batch(int64_t batch, int64_t m, int64_t n, int64_t k, const FloatMatrix& a, const FloatMatrix& b, void* c,
                   const Batches& c_batches, ptrdiff_t ldc, const OutputSpec& out) {
  check_product_result(out);
  if (batch == 0 || m == 0 || n == 0) return;
  const KernelTable& t = table();
  const int threads = threads_for(batch * m * n * std::max<int64_t>(k, 1), kGrain);
  const bool by_batch = batch >= threads;
  parallel_shares(by_batch ? batch : 1, threads, [&](int64_t begin, int64_t end) {
    static thread_local Scratch<float> panels;
    for (int64_t i = begin; i < end; ++i) {
      float* packed = panels.get(FloatPanels::floats(k, n));
      pack_floats(b.data + b.batches[i], b.ld, b.transposed, k, n, packed);
      run({t, m, n, 1, 1, k, a.data + a.batches[i], a.ld, nullptr, nullptr, packed, nullptr, static_cast<char*>(c) + c_batches[i],
           ldc, out},
          by_batch ? 1 : threads);
    }
  });
}

}  // namespace qgemm
