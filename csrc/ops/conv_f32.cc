#include "ops/conv_f32.h"

#include <algorithm>
#include <cstring>

#include "cpu/dispatch.h"
#include "ops/threads.h"

namespace qgemm {
namespace {

constexpr int64_t kBlockFloats = 64 * 1024;  // of input behind one block of output pixels: what stays in L2 while panels pass
constexpr int64_t kMostTiles = 64;

// Pointers of the tile of m pixels from `first` on: [taps][m].
void point(const Window& g, const float* x, const float* padding, int64_t first, int64_t m, const float** out) {
  const int64_t oh = g.out_h(), ow = g.out_w(), image = g.h * g.w * g.c;
  for (int64_t r = 0; r < m; ++r) {
    const int64_t p = first + r, ox = p % ow, oy = p / ow % oh;
    const float* base = x + p / (oh * ow) * image;
    const float** to = out + r;
    for (int64_t ky = 0; ky < g.kh; ++ky) {
      const int64_t iy = oy * g.stride_h - g.top + ky * g.dilation_h;
      const bool inside = iy >= 0 && iy < g.h;
      for (int64_t kx = 0; kx < g.kw; ++kx, to += m) {
        const int64_t ix = ox * g.stride_w - g.left + kx * g.dilation_w;
        *to = inside && ix >= 0 && ix < g.w ? base + (iy * g.w + ix) * g.c : padding;
      }
    }
  }
}

}  // namespace

void conv2d_f32(const FloatWeight& w, const Window& g, const float* x, float* out, float lo, float hi) {
  g.check("conv2d_f32");
  const int64_t pixels = g.batch * g.out_h() * g.out_w(), taps = g.kh * g.kw, kc = g.c / w.groups, columns = w.n / w.groups;
  if (pixels * w.n == 0) return;
  const KernelTable& t = table();
  const int64_t mr = t.sgemm_rows, panels = (columns + kSgemmPanel - 1) / kSgemmPanel, panel = taps * kc * kSgemmPanel;
  const int threads = threads_for(pixels * w.n * std::max<int64_t>(taps * kc, 1), kGrainMacs);
  const int64_t tiles = std::clamp<int64_t>(kBlockFloats / std::max<int64_t>(taps * kc * mr, 1), 4, kMostTiles);
  int64_t blocks = (pixels + tiles * mr - 1) / (tiles * mr);
  if (threads > 1) blocks = std::max(blocks, std::min<int64_t>((pixels + mr - 1) / mr, threads));
  // A share is some panels of one group on one block of pixels; few blocks are cut by panels too.
  const int64_t cuts = threads > 1 && blocks * w.groups < 3 * threads ? std::min<int64_t>(panels, 3 * threads) : 1;
  static thread_local Scratch<float> zeros;
  float* padding = zeros.get(g.c);
  std::fill(padding, padding + g.c, 0.0f);
  parallel_shares(blocks * w.groups * cuts, threads, [&](int64_t begin, int64_t end) {
    static thread_local Scratch<const float*> pointers;
    const int64_t most = (pixels + blocks - 1) / blocks;
    const float** table_of_block = pointers.get(most * taps);
    int64_t filled = -1;
    sgemm_args s{};
    s.taps = static_cast<int32_t>(taps);
    s.kc = static_cast<int32_t>(kc);
    s.lo = lo;
    s.hi = hi;
    s.ldc = static_cast<ptrdiff_t>(w.n);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t cut = i % cuts, group = i / cuts % w.groups, b = i / cuts / w.groups;
      const int64_t first = pixels * b / blocks, rows = pixels * (b + 1) / blocks - first, count = (rows + mr - 1) / mr;
      if (filled != b) {
        const float** p = table_of_block;
        for (int64_t k = 0; k < count; ++k) {
          const int64_t r0 = rows * k / count, m = rows * (k + 1) / count - r0;
          point(g, x, padding, first + r0, m, p);
          p += m * taps;
        }
        filled = b;
      }
      s.offset = static_cast<ptrdiff_t>(group * kc);
      for (int64_t p = panels * cut / cuts; p < panels * (cut + 1) / cuts; ++p) {
        const int64_t column = group * columns + p * kSgemmPanel;
        s.b = w.panels + (group * panels + p) * panel;
        s.bias = w.bias + column;
        s.n = static_cast<int32_t>(std::min<int64_t>(kSgemmPanel, columns - p * kSgemmPanel));
        s.a = table_of_block;
        for (int64_t k = 0; k < count; ++k) {
          const int64_t r0 = rows * k / count, m = rows * (k + 1) / count - r0;
          s.m = static_cast<int32_t>(m);
          s.c = out + (first + r0) * w.n + column;
          t.sgemm(s);
          s.a += m * taps;
        }
      }
    }
  });
}

}  // namespace qgemm
