// Dense convolutions whose filter rows are taps, one line of the output at a time. A tap of kw * c bytes is a few steps long, and
// to fetch a pointer for every row of a tile on every tap takes half as long as its products. Between their padding the lines of
// the image lie where every pixel's taps are equally far from it, so that the kernel needs one address a row.
#include <algorithm>
#include <cstring>

#include "ops/conv_job.h"
#include "ops/threads.h"

namespace qgemm {
namespace {

constexpr int64_t kLeastPixels = 28;             // of a line, below which the end of its strip weighs
constexpr int64_t kAllPanelsBytes = 128 * 1024;  // of weights that every line reads again
constexpr int64_t kMostLineBytes = 1 << 20;      // of a line with its padding, of which a thread keeps several

// Lines of the image between their left and right padding, copied once for all output lines that read them.
class PaddedLines {
 public:
  // For this call; memory: room for bytes(j).
  PaddedLines(const ConvJob& j, uint8_t* memory)
      : j_(j),
        slots_(slots(j)),
        line_(line_bytes(j)),
        before_(round_up(j.g.left * j.g.c)),
        memory_(memory),
        held_(reinterpret_cast<int64_t*>(memory + (slots_ + 1) * line_)) {
    std::fill_n(held_, slots_, int64_t(-1));
    std::memset(memory_, j.zero_point, static_cast<size_t>((slots_ + 1) * line_));
  }
  static int64_t bytes(const ConvJob& j) { return (slots(j) + 1) * line_bytes(j) + slots(j) * int64_t(sizeof(int64_t)); }

  // Line y of an image, from its left padding on; one above or below the image is all padding. The last kh + min(kh, stride_h)
  // lines stay as they are.
  const uint8_t* get(int64_t image, int64_t y) {
    const Window& g = j_.g;
    const int64_t left = g.left * g.c, middle = g.w * g.c;
    if (y < 0 || y >= g.h) return memory_ + slots_ * line_ + before_ - left;
    const int64_t slot = y & (slots_ - 1), id = image * g.h + y;
    uint8_t* at = memory_ + slot * line_ + before_;
    if (held_[slot] != id) {
      std::memcpy(at, j_.x + id * middle, static_cast<size_t>(middle));
      held_[slot] = id;
    }
    return at - left;
  }

 private:
  static int64_t round_up(int64_t bytes) { return (bytes + 63) & ~int64_t(63); }
  // A power of two of lines, as many as lie under a filter and the one below it.
  static int64_t slots(const ConvJob& j) {
    int64_t n = 1;
    while (n < j.g.kh + std::min(j.g.kh, j.g.stride_h)) n *= 2;
    return n;
  }
  static int64_t line_bytes(const ConvJob& j) { return round_up(j.g.left * j.g.c) + round_up((j.g.w + j.g.right) * j.g.c); }

  const ConvJob& j_;
  const int64_t slots_, line_, before_;
  uint8_t* const memory_;
  int64_t* const held_;
};

}  // namespace

bool dense_lines(const ConvJob& j, int threads) {
  const PackedView& w = j.w;
  const Window& g = j.g;
  if (!w.fold_w || w.has_w_zero_point || w.bits != 8 || g.dilation_w != 1 || g.dilation_h != 1 || w.taps > kMaxTapsOfRows ||
      j.ow < kLeastPixels || w.group_panel_bytes() > kAllPanelsBytes || (g.left + g.w + g.right) * g.c > kMostLineBytes)
    return false;
  // Where lines are few, as in one dimension, threads share each; whoever works on a part copies the whole.
  const int64_t lines = g.batch * j.oh;
  const int64_t parts = threads > 1 && lines < 4 * threads ? std::min<int64_t>(4 * threads, j.ow / kLeastPixels) : 1;
  parallel_shares(lines * parts, threads, [&](int64_t begin, int64_t end) {
    static thread_local Scratch<uint8_t> memory, rests;
    PaddedLines padded(j, memory.get(PaddedLines::bytes(j)));
    ptrdiff_t tap_at[kMaxTapsOfRows];
    gemm_args a{};
    a.tap_at = tap_at;
    a.lda = static_cast<ptrdiff_t>(g.stride_w * g.c);
    a.taps = static_cast<int32_t>(w.taps);
    a.kc = static_cast<int32_t>(w.rest_bytes > 0 ? w.kc & ~int64_t(3) : readable(w));
    a.rest_bytes = static_cast<int32_t>(w.rest_bytes);
    uint8_t* const rest = rests.get(w.rest_bytes * j.ow);
    if (w.rest_bytes > 0) a.rest = rest;
    a.ep = &j.e;
    a.ldc = static_cast<ptrdiff_t>(j.ldc);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t line = i / parts, part = i % parts, x0 = j.ow * part / parts, pixels = j.ow * (part + 1) / parts - x0;
      const int64_t image = line / j.oh, y = line % j.oh * g.stride_h - g.top;
      const uint8_t* first = padded.get(image, y);
      for (int64_t t = 0; t < w.taps; ++t) tap_at[t] = padded.get(image, y + t) - first;
      if (i + 1 < end && g.stride_h <= w.taps)  // the next line's are written long before they are read
        for (int64_t t = w.taps - g.stride_h; t < w.taps; ++t) padded.get(image, y + g.stride_h + t);
      a.base = first + x0 * a.lda;
      if (a.rest) {
        const uint8_t* ends[kMaxTapsOfRows];
        for (int64_t t = 0; t < w.taps; ++t) ends[t] = a.base + tap_at[t] + a.kc;
        j.t.tails({ends, static_cast<int32_t>(w.taps), static_cast<int32_t>(w.kc % 4), a.lda, static_cast<ptrdiff_t>(pixels),
                   rest, static_cast<ptrdiff_t>(w.rest_bytes)});
      }
      a.m = static_cast<int32_t>(pixels);
      for (int64_t p = 0; p < w.panels_per_group; ++p) {
        const GemmKernel& kernel = gemm_kernel(j.t, w, w.panel_width(p), pixels, false);
        a.tile_rows = kernel.mr;
        a.width = w.panel_width(p);
        a.n = w.panel_columns(p);
        a.col = static_cast<int32_t>(p * kPanel);
        a.b = reinterpret_cast<const int8_t*>(a.rest ? w.joined_panel(p) : w.panel(0, p));
        a.c = j.c + (line * j.ow + x0) * j.ldc + p * kPanel * j.size;
        kernel.fn(a);
        j.finish(line * j.ow + x0, pixels, p * kPanel, a.n);
      }
    }
  });
  return true;
}

}  // namespace qgemm
