#include "ops/taps.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "cpu/error.h"
#include "ops/threads.h"

namespace qgemm {
namespace {

constexpr int64_t kBlockBytes = 256 * 1024;  // of input behind one block of output pixels: what stays in L2 while panels pass
constexpr int64_t kBlockPointers = 4096;     // of a block's pointer table
constexpr int64_t kDepthwiseCost = 8;        // a depthwise multiply-add takes about this many of a GEMM's

// Output pixel `row` of a geometry.
struct Position {
  int64_t image, o[3];
};
Position position(const TapGeometry& g, int64_t row) {
  Position p;
  p.o[2] = row % g.out[2];
  row /= g.out[2];
  p.o[1] = row % g.out[1];
  row /= g.out[1];
  p.o[0] = row % g.out[0];
  p.image = row / g.out[0];
  return p;
}

// `n` pixels further.
void advance(const TapGeometry& g, int64_t n, Position& p) {
  p.o[2] += n;
  while (p.o[2] >= g.out[2]) {
    p.o[2] -= g.out[2];
    if (++p.o[1] < g.out[1]) continue;
    p.o[1] = 0;
    if (++p.o[0] < g.out[0]) continue;
    p.o[0] = 0;
    ++p.image;
  }
}

int64_t address(const TapGeometry& g, const Position& p) {
  return g.out_first + p.image * g.out_batch + p.o[0] * g.out_stride[0] + p.o[1] * g.out_stride[1] + p.o[2] * g.out_stride[2];
}

// True when all output pixels are equally far apart.
bool evenly_spaced(const TapGeometry& g) {
  return (g.out[1] == 1 || g.out_stride[1] == g.out[2] * g.out_stride[2]) &&
         (g.out[0] == 1 || g.out_stride[0] == g.out[1] * g.out[2] * g.out_stride[2]) &&
         (g.batch == 1 || g.out_batch == g.pixels() * g.out_stride[2]);
}

// Calls f(t, line) for every line of taps of the output line at `p`, t counting lines; line: null outside the image.
template <class F>
void each_tap_line(const TapGeometry& g, const uint8_t* image, const Position& p, F&& f) {
  const int64_t line_bytes = g.in[2] * g.channels;
  int64_t t = 0;
  for (int64_t t0 = 0; t0 < g.count[0]; ++t0) {
    const int64_t i0 = p.o[0] * g.step[0] + g.offset[0][t0];
    for (int64_t t1 = 0; t1 < g.count[1]; ++t1, ++t) {
      const int64_t i1 = p.o[1] * g.step[1] + g.offset[1][t1];
      const bool inside = i0 >= 0 && i0 < g.in[0] && i1 >= 0 && i1 < g.in[1];
      f(t, inside ? image + (i0 * g.in[1] + i1) * line_bytes : nullptr);
    }
  }
}

// Pointers of the m rows from `p` on, [taps][m]; moves `p` behind them. A weight of few channels has a line of taps as one:
// count[2] * channels bytes, which lie together in the image unless its border cuts them or their offsets spread them; then they
// are put together at `patches`, which moves on.
void fill(const TapCall& c, const TapProduct& t, const uint8_t* padding, int64_t group, Position& p, int64_t m, bool adjacent,
          const uint8_t** pointers, uint8_t*& patches) {
  const TapGeometry& g = t.g;
  const int64_t image_bytes = g.in[0] * g.in[1] * g.in[2] * g.channels;
  for (int64_t r = 0, n; r < m; r += n, advance(g, n, p)) {
    n = std::min(m - r, g.out[2] - p.o[2]);
    const int64_t x0 = p.o[2] * g.step[2];
    each_tap_line(g, c.x + p.image * image_bytes + group * t.w.cin_s, p, [&](int64_t tap, const uint8_t* line) {
      if (t.w.fold_w) {
        const uint8_t** out = pointers + tap * m + r;
        for (int64_t i = 0; i < n; ++i) {
          const int64_t from = x0 + i * g.step[2];
          if (!line) {
            out[i] = padding;
          } else if (adjacent && from + g.offset[2][0] >= 0 && from + g.offset[2][0] + g.count[2] <= g.in[2]) {
            out[i] = line + (from + g.offset[2][0]) * g.channels;
          } else {
            out[i] = patches;
            for (int64_t k = 0; k < g.count[2]; ++k, patches += g.channels) {
              const int64_t ix = from + g.offset[2][k];
              if (ix >= 0 && ix < g.in[2])
                std::memcpy(patches, line + ix * g.channels, static_cast<size_t>(g.channels));
              else
                std::memset(patches, c.zero_point, static_cast<size_t>(g.channels));
            }
          }
        }
        return;
      }
      for (int64_t k = 0; k < g.count[2]; ++k) {
        const uint8_t** out = pointers + (tap * g.count[2] + k) * m + r;
        const int64_t from = x0 + g.offset[2][k];
        for (int64_t i = 0; i < n; ++i) {
          const int64_t ix = from + i * g.step[2];
          out[i] = line && ix >= 0 && ix < g.in[2] ? line + ix * g.channels : padding;
        }
      }
    });
  }
}

// Scratch memory of a thread.
struct Workspace {
  Scratch<const uint8_t*> pointers;
  Scratch<uint8_t> patches, padding;
  Scratch<int8_t> expanded;
  Scratch<int32_t> sums;
  Scratch<char> tile;
  Scratch<uint8_t> columns;
};

const uint8_t* padding_row(Workspace& s, const TapCall& c, int64_t bytes) {
  uint8_t* p = s.padding.get(bytes);
  std::memset(p, c.zero_point, static_cast<size_t>(bytes));
  return p;
}

// Rows [first, first + rows) of panels [p0, p1) of a group.
void dense(const TapCall& c, const TapProduct& t, int64_t group, int64_t p0, int64_t p1, int64_t first, int64_t rows,
           Workspace& s) {
  const PackedView& w = t.w;
  const TapGeometry& g = t.g;
  const int64_t size = static_cast<int64_t>(out_size(c.type));
  const uint8_t* padding = padding_row(s, c, std::max<int64_t>(w.kc, 1));
  const uint8_t** pointers = s.pointers.get(rows * w.taps);
  uint8_t* patch_memory = w.fold_w ? s.patches.get(rows * w.taps * w.kc) : nullptr;
  int8_t* scratch = w.bits == 4 ? s.expanded.get((w.panel_s8_bytes(kPanel) + 127) / 128 * 128) : nullptr;
  bool adjacent = true;
  for (int64_t k = 1; k < g.count[2]; ++k) adjacent = adjacent && g.offset[2][k] == g.offset[2][k - 1] + 1;
  const bool even = evenly_spaced(g);
  const Position start = position(g, first);
  Epilogue e = t.e;
  int filled_mr = 0;
  for (int64_t p = p0; p < p1; ++p) {
    const GemmKernel& kernel = c.t.gemm_for(w.panel_width(p));
    const int64_t tiles = (rows + kernel.mr - 1) / kernel.mr;
    if (filled_mr != kernel.mr) {
      uint8_t* patches = patch_memory;
      Position at = start;
      for (int64_t i = 0; i < tiles; ++i) {
        const int64_t r0 = rows * i / tiles, r1 = rows * (i + 1) / tiles;
        fill(c, t, padding, group, at, r1 - r0, adjacent, pointers + r0 * w.taps, patches);
      }
      if (w.has_w_zero_point) {  // the sum of every byte that a row reads
        int32_t* sums = s.sums.get(rows);
        for (int64_t i = 0; i < tiles; ++i) {
          const int64_t r0 = rows * i / tiles, m = rows * (i + 1) / tiles - r0;
          for (int64_t r = 0; r < m; ++r) {
            int32_t sum = 0;
            for (int64_t tap = 0; tap < w.taps; ++tap)
              for (int64_t k = 0; k < w.kc; ++k) sum += pointers[r0 * w.taps + tap * m + r][k];
            sums[r0 + r] = sum;
          }
        }
        e.row_sum = sums;
      }
      filled_mr = kernel.mr;
    }
    gemm_args a{};
    a.taps = static_cast<int32_t>(w.taps);
    a.kc = static_cast<int32_t>(w.kc);
    a.width = w.panel_width(p);
    a.n = w.panel_columns(p);
    a.col = static_cast<int32_t>(group * w.n_group_padded + p * kPanel);
    a.b = panel_as_s8(c.t, w, group, p, scratch);
    a.ep = &e;
    Position at = start;
    char* out = c.out + (group * w.cout_s + p * kPanel) * size;
    for (int64_t i = 0; i < tiles; ++i) {
      const int64_t r0 = rows * i / tiles, r1 = rows * (i + 1) / tiles;
      const GemmTile tile_rows{pointers + r0 * w.taps, 0};
      a.tiles = &tile_rows;
      a.m = static_cast<int32_t>(r1 - r0);
      a.row = static_cast<int32_t>(r0);
      if (even || at.o[2] + a.m <= g.out[2]) {
        a.c = out + address(g, at);
        a.ldc = static_cast<ptrdiff_t>(g.out_stride[2]);
        kernel.fn(a);
        advance(g, a.m, at);
        continue;
      }
      a.ldc = static_cast<ptrdiff_t>(a.n * size);
      char* tile = s.tile.get(a.m * a.ldc);  // the tile's pixels are on several lines
      a.c = tile;
      kernel.fn(a);
      for (int64_t r = 0; r < a.m; ++r, advance(g, 1, at))
        std::memcpy(out + address(g, at), tile + r * a.ldc, static_cast<size_t>(a.ldc));
    }
  }
}

// Output lines [begin, end) of a depthwise product: pixels whose taps all lie inside come in one run, the others one by one.
void depthwise(const TapCall& c, const TapProduct& t, int64_t begin, int64_t end, Workspace& s) {
  const PackedView& w = t.w;
  const TapGeometry& g = t.g;
  const int64_t size = static_cast<int64_t>(out_size(c.type)), image_bytes = g.in[0] * g.in[1] * g.in[2] * g.channels;
  int64_t least = g.offset[2][0], most = least;
  for (int64_t k = 1; k < g.count[2]; ++k) least = std::min(least, g.offset[2][k]), most = std::max(most, g.offset[2][k]);
  // o * step + least >= 0 and o * step + most < in
  const int64_t lo = std::min(g.out[2], least < 0 ? (-least + g.step[2] - 1) / g.step[2] : 0);
  const int64_t last = g.in[2] - 1 - most, hi = last < 0 ? lo : std::max(lo, std::min(g.out[2], last / g.step[2] + 1));
  // A tap outside the image stays on the row of zero points while the others move along a run.
  const uint8_t* padding = padding_row(s, c, (g.out[2] * g.step[2] + 1) * g.channels);
  // Offsets follow no rule here, so every four taps are a bundle of their own, one column wide.
  const int64_t bundles = w.bundles * w.bundle_taps;
  const uint8_t** taps = s.pointers.get(w.taps + 4 * bundles);
  const uint8_t** rows = taps + w.taps;
  depthwise_args d{};
  d.rows = rows;
  d.pixel = static_cast<ptrdiff_t>(g.channels);
  d.stride = g.step[2];
  d.dilation = 1;
  d.bundles = static_cast<int32_t>(bundles);
  d.taps = 1;
  d.splits = w.parts;
  d.height = static_cast<int32_t>(4 * bundles);
  d.outputs = 1;
  d.scratch_bytes = 4 * bundles + 64 + 4096 * bundles;
  d.scratch = s.columns.get(d.scratch_bytes);
  d.ep = &t.e;
  d.ldc = static_cast<ptrdiff_t>(g.out_stride[2]);
  for (int64_t line = begin; line < end; ++line) {
    Position p = position(g, line * g.out[2]);
    for (int64_t ox = 0, n; ox < g.out[2]; ox += n) {
      n = ox >= lo && ox < hi ? hi - ox : 1;
      p.o[2] = ox;
      each_tap_line(g, c.x + p.image * image_bytes, p, [&](int64_t tap, const uint8_t* from) {
        for (int64_t k = 0; k < g.count[2]; ++k) {
          const int64_t ix = ox * g.step[2] + g.offset[2][k];
          taps[tap * g.count[2] + k] = from && ix >= 0 && ix < g.in[2] ? from + ix * g.channels : padding;
        }
      });
      d.pixels = static_cast<int32_t>(n);
      d.columns = (n - 1) * g.step[2] + 1;
      char* out = c.out + address(g, p);
      for (int64_t channel = 0; channel < w.n; channel += kPanel) {
        for (int64_t k = 0; k < 4 * bundles; ++k) {  // four of a column, or of the one row; past the filter any tap will do
          const int64_t bundle = k / 4 / w.bundle_taps, column = k / 4 % w.bundle_taps, i = k % 4;
          const int64_t ky = w.kh == 1 ? 0 : std::min(4 * bundle + i, w.kh - 1);
          rows[k] = taps[ky * w.kw + (w.kh == 1 ? std::min(4 * column + i, w.kw - 1) : column)] + channel;
        }
        d.b = reinterpret_cast<const int8_t*>(w.panels) + channel / kPanel * w.panel_stride;
        d.channels = static_cast<int32_t>(std::min<int64_t>(kPanel, w.n - channel));
        d.col = static_cast<int32_t>(channel);
        d.c = out + channel * size;
        c.t.depthwise(d);
      }
    }
  }
}

// Rows of a block: their input stays in L2 and their pointers are few.
int64_t block_rows(const TapCall& c, const TapProduct& t) {
  const int mr = c.t.gemm_for(t.w.panel_width(0)).mr;
  const int64_t rows = std::min(kBlockBytes / std::max<int64_t>(t.w.kc, 1), kBlockPointers / t.w.taps) / mr * mr;
  return std::max<int64_t>(rows, 4 * mr);
}

}  // namespace

void run_taps(const TapCall& call, const TapProduct* products, int64_t count) {
  int64_t work = 0, blocks = 1, panels = 1, groups = 1, most_rows = 0;
  bool is_depthwise = false;
  for (int64_t i = 0; i < count; ++i) {
    const TapProduct& t = products[i];
    const int64_t rows = t.g.batch * t.g.pixels();
    if (rows * t.w.n == 0) continue;
    is_depthwise = t.w.kind == PackedKind::depthwise;
    work += rows * t.w.n * std::max<int64_t>(t.w.k, 1) * (is_depthwise ? kDepthwiseCost : 1);
    most_rows = std::max(most_rows, is_depthwise ? rows / t.g.out[2] : rows);
    if (is_depthwise) continue;
    const int64_t block = block_rows(call, t);
    blocks = std::max(blocks, (rows + block - 1) / block);
    panels = t.w.panels_per_group;
    groups = t.w.sets;
  }
  if (work == 0) return;
  const int threads = threads_for(work, kGrainMacs);
  // An item is a block of a product's rows, one group and some of its panels. Blocks come first, so that threads, which take
  // neighbouring items, get equal shares of products of unequal size.
  if (threads > 1) blocks = std::max(blocks, std::min<int64_t>((most_rows + 5) / 6, 2 * threads));
  int64_t cuts = 1;
  if (is_depthwise)
    blocks = std::min<int64_t>(most_rows, 8 * threads);
  else if (blocks * groups * count < 3 * threads)
    cuts = std::min<int64_t>(panels, (3 * threads + blocks * groups * count - 1) / (blocks * groups * count));
  parallel_shares(blocks * count * groups * cuts, threads, [&](int64_t begin, int64_t end) {
    static thread_local Workspace workspace;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t cut = i % cuts, group = i / cuts % groups, product = i / cuts / groups % count, b = i / cuts / groups / count;
      const TapProduct& t = products[product];
      const int64_t rows = t.g.batch * t.g.pixels();
      if (rows * t.w.n == 0) continue;
      if (is_depthwise) {
        const int64_t lines = rows / t.g.out[2];
        depthwise(call, t, lines * b / blocks, lines * (b + 1) / blocks, workspace);
        continue;
      }
      const int64_t first = rows * b / blocks, last = rows * (b + 1) / blocks;
      if (first < last) dense(call, t, group, panels * cut / cuts, panels * (cut + 1) / cuts, first, last - first, workspace);
    }
  });
}

void use_encoding(const char* op, const PackedView& w, const Encoding8& encoding, int32_t* terms, Epilogue& e) {
  if (encoding.zero_point != w.x_zero_point && !w.dynamic)
    throw Error(Code::packed, std::string(op) + ": x_zero_point = " + std::to_string(encoding.zero_point) +
                                  " but this weight was packed, and its accumulator proven, for " +
                                  std::to_string(w.x_zero_point) +
                                  "; pack it with the default x_scale and x_zero_point for dynamic inputs");
  float* scale = reinterpret_cast<float*>(terms + w.n_padded);
  for (int64_t n = 0; n < w.n_padded; ++n) {
    terms[n] = static_cast<int32_t>(w.bias_int32[n] - static_cast<int64_t>(encoding.zero_point) * w.colsum[n]);
    scale[n] = static_cast<float>(static_cast<double>(encoding.scale) * static_cast<double>(w.w_scale[n]));
    if (!std::isfinite(scale[n]))
      throw Error(Code::quantization,
                  std::string(op) + ": x_scale times a weight scale is not finite in float32; recalibrate x's quantizer");
  }
  e.correction = terms;
  e.scale = scale;
  e.bounded = false;  // the packed bound is of the packed encoding
}

}  // namespace qgemm
