// Dense convolutions over the taps that lie inside the image only. A padded convolution's border pixels multiply rows of zero
// points: of a 3x3 filter over 7x7 pixels 18% of all products, over 14x14 9%. Their sum is known when the weight is packed
// (PackedView::tap_sums), so the image is cut in regions whose pixels have the same taps inside, and each region is a product of
// its own over a part of the panel, from a correction of its own on.
//
//   +-----------------+  Lines at the top and the bottom leave out lines of taps, corners included; columns at the left and the
//   |       top       |  right leave out columns of taps. The pixels of a column are a run downwards: an output line apart in
//   +--+-----------+--+  memory, which is as good a matrix as one whose rows are adjacent.
//   |l |  within   | r|
//   +--+-----------+--+  The int32 sums wrap in any order to the same bits.
//   |     bottom      |
//   +-----------------+
#include <algorithm>
#include <vector>

#include "ops/conv_job.h"
#include "ops/threads.h"

namespace qgemm {
namespace {

constexpr int64_t kLeastRows = 3;     // a tile of fewer rows takes as long: its weights arrive no faster
constexpr int64_t kStripCycles = 80;  // of a call of a kernel and the end of its last tile, beside which nothing is multiplied
constexpr int64_t kTallest = 16;      // rows of a tile

// Lines or columns [begin, end) of the output, and the lines or columns [first, last) of taps that they have inside the image.
struct Span {
  int64_t begin, end, first, last;
};

// One axis: `n` outputs over an input of `size`.
struct Axis {
  int64_t n, size, taps, stride, before, dilation;

  Span at(int64_t o) const {
    const int64_t from = o * stride - before;
    const int64_t first = from >= 0 ? 0 : (-from + dilation - 1) / dilation;
    const int64_t last = from >= size ? 0 : std::min(taps, (size - 1 - from) / dilation + 1);
    return {o, o + 1, first, last};
  }
  // The outputs that have every tap inside.
  Span within() const {
    const int64_t reach = size - 1 - (taps - 1) * dilation + before;
    const int64_t begin = std::min(n, (before + stride - 1) / stride), end = reach < 0 ? 0 : std::min(n, reach / stride + 1);
    return {begin, std::max(begin, end), 0, taps};
  }
};

struct Region {
  Span y, x;
  bool down;              // a column: its pixels are a run downwards
  bool inside;            // every tap of every pixel lies inside the image (at the top and the bottom corners have some outside)
  ptrdiff_t first_pixel;  // of the input, from pixel (0, 0) on: what tap (y.first, x.first) of output (0, 0) reads
  Epilogue e;
};

// Pixels that one call of a kernel computes: `m` of a region, from output pixel `pixel` on, `step` pixels apart.
struct Strip {
  const Region* region;
  int64_t pixel, step;
  int32_t m, tile_rows;
  size_t first_tile;
};

// What a thread keeps while it works on a convolution.
struct Memory {
  std::vector<Strip> strips;
  std::vector<GemmTile> tiles;
  Scratch<const uint8_t*> pointers;
  Scratch<int8_t> expanded;
  // Tables of pointers that tiles of a region share, by height: all of them are as far from it as their first pixels are.
  struct Shared {
    const uint8_t* const* rows;
    const uint8_t* origin;
  };
  std::vector<Shared> shared;
};

bool whole(const Span& s, int64_t taps) { return s.first == 0 && s.last == taps; }

// Cuts the output in regions, and adds up what computing them takes.
class Planner {
 public:
  Planner(const PackedView& w, const Window& g, std::vector<Region>& regions)
      : w_(w),
        g_(g),
        rows_{g.out_h(), g.h, g.kh, g.stride_h, g.top, g.dilation_h},
        columns_{g.out_w(), g.w, g.kw, g.stride_w, g.left, g.dilation_w},
        regions_(regions) {}

  // False where there is nothing to leave out, or where that would take longer than the products.
  bool plan() {
    const int64_t oh = rows_.n, ow = columns_.n;
    const Span y = rows_.within(), x = columns_.within();
    if (y.begin == y.end || x.begin == x.end || (y.end - y.begin == oh && x.end - x.begin == ow)) return false;
    // The outermost lines and columns have the fewest taps inside. One without any would read nothing but padding.
    for (const Span& s : {rows_.at(0), rows_.at(oh - 1), columns_.at(0), columns_.at(ow - 1)})
      if (s.first >= s.last) return false;
    regions_.clear();
    for (int64_t o = 0; o < y.begin; ++o) add(rows_.at(o), {0, ow, 0, g_.kw}, false);
    for (int64_t o = 0; o < x.begin; ++o) add(y, columns_.at(o), true);
    add(y, x, false);
    for (int64_t o = x.end; o < ow; ++o) add(y, columns_.at(o), true);
    for (int64_t o = y.end; o < oh; ++o) add(rows_.at(o), {0, ow, 0, g_.kw}, false);
    return cycles_ < oh * ow * w_.taps * tap_cycles();
  }

 private:
  // Of one row of a tile of the first panel.
  int64_t tap_cycles() const { return w_.kc / 4 * (w_.panel_width(0) / kPanelAlign); }

  void add(const Span& y, const Span& x, bool down) {
    const int64_t taps = (y.last - y.first) * (x.last - x.first);
    const int64_t runs = down ? 1 : y.end - y.begin, rows = down ? y.end - y.begin : x.end - x.begin;
    cycles_ += runs * (std::max(rows, kLeastRows) * taps * tap_cycles() + kStripCycles);
    const int64_t iy = y.first * g_.dilation_h - g_.top, ix = x.first * g_.dilation_w - g_.left;
    regions_.push_back({y, x, down, down || whole(y, g_.kh), static_cast<ptrdiff_t>(iy * g_.w + ix), {}});
  }

  const PackedView& w_;
  const Window& g_;
  const Axis rows_, columns_;
  std::vector<Region>& regions_;
  int64_t cycles_ = 0;  // of an image
};

bool plan(const PackedView& w, const Window& window, std::vector<Region>& regions) {
  Window g = window;
  g.kh = w.kh;
  g.kw = w.kw;
  // The kernel for merged groups takes whole filters.
  return w.tap_sums && !w.fold_w && !w.has_w_zero_point && w.kc % 4 == 0 && !merged_groups(w) && Planner(w, g, regions).plan();
}

// A convolution that is cut in regions.
class InsideConv {
 public:
  explicit InsideConv(const ConvJob& j) : j_(j) {}

  // Corrections of the regions' accumulators: room for n_padded a region.
  void correct(std::vector<Region>& regions, int32_t* memory) const {
    const PackedView& w = j_.w;
    for (Region& r : regions) {
      r.e = j_.e;
      if (j_.zero_point == 0 || (whole(r.y, w.kh) && whole(r.x, w.kw))) continue;
      std::copy_n(j_.e.correction, w.n_padded, memory);
      for (int64_t t = 0; t < w.taps; ++t) {
        const int64_t ky = t / w.kw, kx = t % w.kw;
        if (ky >= r.y.first && ky < r.y.last && kx >= r.x.first && kx < r.x.last) continue;
        const int32_t* sums = w.tap_sums + t * w.n_padded;
        for (int64_t n = 0; n < w.n_padded; ++n)
          memory[n] = static_cast<int32_t>(static_cast<uint32_t>(memory[n]) +
                                           static_cast<uint32_t>(j_.zero_point) * static_cast<uint32_t>(sums[n]));
      }
      r.e.correction = memory;
      memory += w.n_padded;
    }
  }

  // Output lines [begin, end), counted through the batch; panels [p0, p1) of one set of groups.
  void run(const std::vector<Region>& regions, int64_t begin, int64_t end, int64_t set, int64_t p0, int64_t p1, Memory& memory,
           int& cut_width) const {
    const PackedView& w = j_.w;
    int8_t* scratch = w.bits == 4 ? memory.expanded.get((w.panel_s8_bytes(kPanel) + 127) / 128 * 128) : nullptr;
    for (int64_t p = p0; p < p1; ++p) {
      const int width = w.panel_width(p);
      if (cut_width != width) cut(regions, begin, end, width, memory);
      cut_width = width;
      const int8_t* ahead = p + 1 < p1 ? panel_ahead(j_.t, w, set, p, (end - begin) * j_.ow) : nullptr;
      const int8_t* b = panel_as_s8(j_.t, w, set, p, scratch);
      const ptrdiff_t tap_bytes = static_cast<ptrdiff_t>(w.kc) * width;
      gemm_args g{};
      g.kc = static_cast<int32_t>(w.kc);
      g.width = width;
      g.n = w.panel_columns(p);
      g.col = static_cast<int32_t>(set * w.n_group_padded + p * kPanel);
      g.offset = static_cast<ptrdiff_t>(set * w.cin_s);
      const int64_t column = set * w.cout_s + p * kPanel;
      int brought = 0;
      for (const Strip& s : memory.strips) {
        const Region& r = *s.region;
        const int64_t line = r.x.last - r.x.first;
        g.taps = static_cast<int32_t>((r.y.last - r.y.first) * line);
        g.line = line == w.kw ? 0 : static_cast<int32_t>(line);
        g.gap = (w.kw - line) * tap_bytes;
        g.b = b + (r.y.first * w.kw + r.x.first) * tap_bytes;
        g.ep = &r.e;
        g.tiles = memory.tiles.data() + s.first_tile;
        g.m = s.m;
        g.tile_rows = s.tile_rows;
        g.ldc = static_cast<ptrdiff_t>(s.step * j_.ldc);
        g.c = j_.c + s.pixel * j_.ldc + column * j_.size;
        g.next = nullptr;
        const int halves = s.m > s.tile_rows ? 2 : 1;  // of the panel ahead, that the tiles of this strip would bring
        if (ahead && g.taps == w.taps && brought + halves <= 2) {
          g.next = ahead + brought * (w.panel_s8_bytes(width) / 2);
          brought += halves;
        }
        gemm_kernel(j_.t, w, width, s.m).fn(g);
      }
    }
  }

 private:
  // The strips of output lines [begin, end), and their tiles for panels of this width.
  void cut(const std::vector<Region>& regions, int64_t begin, int64_t end, int width, Memory& memory) const {
    const Window& g = j_.g;
    int64_t border = 0;  // lines whose pointers cannot be shared
    memory.strips.clear();
    memory.tiles.clear();
    for (int64_t line = begin, to; line < end; line = to) {
      const int64_t image = line / j_.oh;
      to = std::min(end, (image + 1) * j_.oh);
      for (const Region& r : regions) {
        const int64_t y0 = std::max(r.y.begin, line - image * j_.oh), y1 = std::min(r.y.end, to - image * j_.oh);
        if (y0 >= y1) continue;
        const int64_t first = (image * j_.oh + y0) * j_.ow + r.x.begin;
        border += r.inside ? 0 : y1 - y0;
        if (r.down)
          memory.strips.push_back({&r, first, j_.ow, static_cast<int32_t>(y1 - y0), 0, 0});
        else
          for (int64_t y = y0; y < y1; ++y)
            memory.strips.push_back({&r, first + (y - y0) * j_.ow, 1, static_cast<int32_t>(r.x.end - r.x.begin), 0, 0});
      }
    }
    const int64_t shared = static_cast<int64_t>(regions.size()) * j_.w.taps * kTallest * (kTallest + 1) / 2;
    const uint8_t** free = memory.pointers.get(shared + border * j_.ow * j_.w.taps);
    memory.shared.assign(regions.size() * (kTallest + 1), {});
    for (Strip& s : memory.strips) {
      const Region& r = *s.region;
      s.tile_rows = gemm_kernel(j_.t, j_.w, width, s.m).mr;
      s.first_tile = memory.tiles.size();
      const GemmCut cut = gemm_cut(s.m, s.tile_rows);
      for (int32_t i = 0; i < cut.tiles; ++i) {
        const int32_t r0 = gemm_tile_begin(cut, i), m = gemm_tile_begin(cut, i + 1) - r0;
        const int64_t pixel = s.pixel + r0 * s.step, oy = pixel / j_.ow % j_.oh, ox = pixel % j_.ow;
        const uint8_t* image = j_.x + pixel / (j_.ow * j_.oh) * g.h * g.w * g.c;
        if (!r.inside) {
          memory.tiles.push_back({free, 0});
          free = point_at_border(r, image, oy, ox, m, free);
          continue;
        }
        const uint8_t* at = image + (oy * g.stride_h * g.w + ox * g.stride_w) * g.c;
        Memory::Shared& table = memory.shared[static_cast<size_t>((&r - regions.data()) * (kTallest + 1) + m)];
        if (!table.rows) {
          table = {free, at};
          free = point(r, at + r.first_pixel * g.c, m, free);
        }
        memory.tiles.push_back({table.rows, at - table.origin});
      }
    }
  }

  // Pointers of m pixels of a run, [taps][m]; p: what its first pixel's first tap reads. Returns the end.
  const uint8_t** point(const Region& r, const uint8_t* p, int64_t m, const uint8_t** out) const {
    const Window& g = j_.g;
    const int64_t step = (r.down ? g.stride_h * g.w : g.stride_w) * g.c;
    for (int64_t ky = 0; ky < r.y.last - r.y.first; ++ky)
      for (int64_t kx = 0; kx < r.x.last - r.x.first; ++kx)
        for (int64_t i = 0; i < m; ++i) *out++ = p + (ky * g.dilation_h * g.w + kx * g.dilation_w) * g.c + i * step;
    return out;
  }

  // The same for m pixels of output line oy from ox on, all of whose lines of taps lie inside, but not all of the columns.
  const uint8_t** point_at_border(const Region& r, const uint8_t* image, int64_t oy, int64_t ox, int64_t m,
                                  const uint8_t** out) const {
    const Window& g = j_.g;
    for (int64_t ky = r.y.first; ky < r.y.last; ++ky) {
      const uint8_t* line = image + (oy * g.stride_h - g.top + ky * g.dilation_h) * g.w * g.c;
      for (int64_t kx = 0; kx < g.kw; ++kx)
        for (int64_t i = 0; i < m; ++i) {
          const int64_t ix = (ox + i) * g.stride_w - g.left + kx * g.dilation_w;
          *out++ = ix >= 0 && ix < g.w ? line + ix * g.c : j_.padding;
        }
    }
    return out;
  }

  const ConvJob& j_;
};

}  // namespace

bool leaves_out_padding(const PackedView& w, const Window& window) {
  std::vector<Region> regions;
  return plan(w, window, regions);
}

bool dense_inside(const ConvJob& j, const ConvShares& shares) {
  const PackedView& w = j.w;
  if (j.post) return false;
  // Blocks are of whole lines here; where that would make them uneven for threads, pixels share better.
  const int64_t lines = j.g.batch * j.oh;
  if (shares.threads > 1 && lines % shares.blocks != 0 && lines < 16 * shares.blocks) return false;
  static thread_local std::vector<Region> planned;
  if (!plan(w, j.g, planned)) return false;
  const InsideConv conv(j);
  static thread_local Scratch<int32_t> corrections;
  conv.correct(planned, corrections.get(static_cast<int64_t>(planned.size()) * w.n_padded));
  const std::vector<Region>& regions = planned;
  const int64_t panels = w.panels_per_group, cuts = shares.cuts;
  parallel_shares(shares.blocks * w.sets * cuts, shares.threads, [&](int64_t begin, int64_t end) {
    static thread_local Memory memory;
    int64_t filled = -1;
    int cut_width = 0;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t cut = i % cuts, set = i / cuts % w.sets, b = i / cuts / w.sets;
      if (filled != b) cut_width = 0;
      filled = b;
      conv.run(regions, lines * b / shares.blocks, lines * (b + 1) / shares.blocks, set, panels * cut / cuts,
               panels * (cut + 1) / cuts, memory, cut_width);
    }
  });
  return true;
}

}  // namespace qgemm
