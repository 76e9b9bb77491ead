// Dense convolutions of few channels whose outputs sum few products: first layers. 16 pixels of an output line lie in the lanes
// of a register and weights are broadcast; the kernel fetches the bytes of a step straight from the image's lines.
#include <algorithm>
#include <cstring>

#include "ops/conv_job.h"
#include "ops/threads.h"

namespace qgemm {
namespace {

constexpr Isa kTurns = Isa::avx512vbmi;   // from this path on there is such a kernel
constexpr int64_t kLeastPixels = 12;      // of a line, below which too many lanes are empty
constexpr int64_t kPostBytes = 8 * 1024;  // of a call's output, where something follows on it: it is found in L1
constexpr int64_t kMostLines = 64;        // of a call, else

// What all calls have in common.
lines_args common_args(const ConvJob& j) {
  const PackedView& w = j.w;
  const Window& g = j.g;
  lines_args a{};
  a.advance = static_cast<ptrdiff_t>(g.stride_h);
  a.bytes = static_cast<ptrdiff_t>(g.w * g.c);
  a.padding = j.zero_point;
  a.taps = static_cast<int32_t>(w.taps);
  a.kc = static_cast<int32_t>(w.kc);
  a.step = static_cast<ptrdiff_t>(g.stride_w * g.c);
  a.b = reinterpret_cast<const int8_t*>(w.joined_panel(0));
  a.width = w.panel_width(0);
  a.n = w.panel_columns(0);
  a.ep = &j.e;
  a.ldc = static_cast<ptrdiff_t>(j.ldc);
  a.ldr = static_cast<ptrdiff_t>(j.ow * j.ldc);
  return a;
}

bool applies(const ConvJob& j, const lines_args& a) {
  const PackedView& w = j.w;
  const Epilogue& e = j.e;
  return j.t.isa >= kTurns && w.fold_w && !w.has_w_zero_point && w.bits == 8 && j.g.dilation_w == 1 && j.g.dilation_h == 1 &&
         j.ow >= kLeastPixels && (e.out == OutType::u8 || e.out == OutType::s8) && !e.row_zero_point && !e.row_scale &&
         !e.row_sum && !e.row_term && w.rest_bytes > 0 && w.panels_per_group == 1 && lines_takes(w.taps, w.kc) &&
         15 * a.step + a.kc <= 128;
}

}  // namespace

bool dense_turned(const ConvJob& j, int threads) {
  const PackedView& w = j.w;
  const Window& g = j.g;
  const lines_args common = common_args(j);
  if (!applies(j, common)) return false;
  // Where lines are few, as in one dimension, threads share each.
  const int64_t lines = g.batch * j.oh, line_bytes = g.w * g.c;
  const int64_t parts = threads > 1 && lines < 4 * threads ? std::min<int64_t>(4 * threads, j.ow / kLeastPixels) : 1;
  int64_t most = parts > 1 ? 1 : kMostLines;
  if (j.post) most = std::clamp<int64_t>(kPostBytes / (j.ow * j.ldc), 1, most);
  parallel_shares(lines * parts, threads, [&](int64_t begin, int64_t end) {
    static thread_local Scratch<uint8_t> padding_bytes;
    static thread_local Scratch<const uint8_t*> pointers;
    uint8_t* const padding = padding_bytes.get(line_bytes);
    std::memset(padding, j.zero_point, static_cast<size_t>(line_bytes));
    const uint8_t** const rows = pointers.get((most - 1) * g.stride_h + w.taps);
    lines_args a = common;
    a.rows = rows;
    for (int64_t i = begin; i < end; i += a.outputs) {
      const int64_t line = i / parts, part = i % parts, image = line / j.oh, y = line % j.oh;
      const int64_t x0 = j.ow * part / parts, first = line * j.ow + x0;
      a.outputs = static_cast<int32_t>(std::min({most, end - i, j.oh - y}));
      a.first = static_cast<ptrdiff_t>((x0 * g.stride_w - g.left) * g.c);
      a.pixels = static_cast<ptrdiff_t>(j.ow * (part + 1) / parts - x0);
      for (int64_t r = 0; r < (a.outputs - 1) * g.stride_h + w.taps; ++r) {
        const int64_t iy = y * g.stride_h - g.top + r;
        rows[r] = iy >= 0 && iy < g.h ? j.x + (image * g.h + iy) * line_bytes : padding;
      }
      a.c = j.c + first * j.ldc;
      j.t.lines(a);
      j.finish(first, a.pixels + (a.outputs - 1) * j.ow, 0, w.n);
    }
  });
  return true;
}

}  // namespace qgemm
