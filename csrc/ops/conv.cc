#include "ops/conv.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "cpu/error.h"
#include "ops/conv_job.h"
#include "ops/threads.h"

namespace qgemm {
namespace {

constexpr int64_t kBlockBytes = 256 * 1024;  // of input behind one block of output pixels: what stays in L2 while panels pass
constexpr int64_t kSharedPanelBytes = 256 * 1024;  // of weights that every thread may read whole
constexpr int64_t kBlockPointers = 4096;           // of a block's pointer table
constexpr int64_t kL2Bytes = 1 << 20;

using Job = ConvJob;

// Output pixels [first, first + rows) of one set of groups, as the tiles' pointers.
struct Table {
  GemmCut cut;
  GemmTile* tiles;           // or null, where the pixels are the rows of a matrix
  const uint8_t** pointers;  // room for those of every tile
  int32_t tile_begin(int32_t i) const { return gemm_tile_begin(cut, i); }
};

// m pointers, `step` bytes apart. A loop whose length is known is unrolled: for the heights of tiles it is.
template <int M>
void put(const uint8_t* p, int64_t step, const uint8_t** out) {
  for (int r = 0; r < M; ++r) out[r] = p + r * step;
}
void put_pointers(const uint8_t* p, int64_t step, int64_t m, const uint8_t** out) {
  switch (m) {
    case 3:
      return put<3>(p, step, out);
    case 4:
      return put<4>(p, step, out);
    case 6:
      return put<6>(p, step, out);
    case 8:
      return put<8>(p, step, out);
    case 10:
      return put<10>(p, step, out);
    default:
      for (int64_t r = 0; r < m; ++r) out[r] = p + r * step;
  }
}

// m pixels side by side on output line oy, from ox on.
struct Run {
  const uint8_t* base;  // of the image
  int64_t oy, ox, m;
};

// Where the taps of a run lie.
enum class Lies { apart, between, within };  // between: inside the image or above or below it; within: inside it

Lies place_of(const Job& j, const Run& run) {
  const Window& g = j.g;
  const int64_t x0 = run.ox * g.stride_w - g.left, last = x0 + (run.m - 1) * g.stride_w + (g.kw - 1) * g.dilation_w;
  if (run.ox + run.m > j.ow || x0 < 0 || last >= g.w || (j.w.fold_w && g.dilation_w != 1)) return Lies::apart;
  const int64_t line = g.w * g.c, y0 = run.oy * g.stride_h - g.top, bottom = y0 + (g.kh - 1) * g.dilation_h;
  // The end of the last tap, rounded up, within the image.
  if (std::min(g.h - 1, bottom) * line + last * g.c + g.c + 3 > (j.x + g.batch * g.h * line) - run.base) return Lies::apart;
  return y0 >= 0 && bottom < g.h ? Lies::within : Lies::between;
}

// The pointers of a run that does not lie apart: from pixel to pixel they are equally far apart.
void point(const Job& j, const Run& run, const uint8_t** out) {
  const Window& g = j.g;
  const int64_t x0 = run.ox * g.stride_w - g.left, y0 = run.oy * g.stride_h - g.top;
  const int64_t line = g.w * g.c, step = g.stride_w * g.c, columns = j.w.fold_w ? 1 : g.kw;
  for (int64_t ky = 0; ky < g.kh; ++ky) {
    const int64_t iy = y0 + ky * g.dilation_h;
    const bool inside = iy >= 0 && iy < g.h;
    const uint8_t* p = inside ? run.base + iy * line + x0 * g.c : j.padding;
    const int64_t next = inside ? step : 0, next_column = inside ? g.dilation_w * g.c : 0;
    for (int64_t kx = 0; kx < columns; ++kx, p += next_column, out += run.m) put_pointers(p, next, run.m, out);
  }
}

// From the first byte of a pixel to the last one that the kernels read for any set of groups.
int64_t span(const PackedView& w) { return (w.sets - 1) * w.cin_s + readable(w); }

// True when output pixel i reads just the channels of input pixel i: a product of two matrices that needs no table.
bool is_product(const Job& j) {
  const Window& g = j.g;
  return j.w.taps == 1 && !j.w.fold_w && j.w.kc % 4 == 0 && !j.w.has_w_zero_point && g.stride_h == 1 && g.stride_w == 1 &&
         j.oh == g.h && j.ow == g.w && g.top == 0 && g.left == 0;
}

// Fills the table with the pointers of the first set. Of the tiles within the image only the first has pointers of its own: those
// of the others are as far from them as the pixels are. `patches`: room for [rows][taps] pieces of span() bytes.
void fill(const Job& j, int64_t first, Table& table, uint8_t* patches) {
  const Window& g = j.g;
  const PackedView& w = j.w;
  const int64_t image = g.h * g.w * g.c, line = g.w * g.c, pixels = j.oh * j.ow, bytes = span(w);
  const uint8_t* const end = j.x + g.batch * image;
  auto whole = [&](const uint8_t* p) {
    if (end - p >= bytes) return p;
    std::memcpy(patches, p, static_cast<size_t>((w.sets - 1) * w.cin_s + w.kc));
    const uint8_t* patch = patches;
    patches += bytes;
    return patch;
  };
  // A filter row of few channels is one tap: kw * c bytes that lie together in the image, unless the border cuts them or the
  // dilation spreads them; then a patch of them is put together.
  auto filter_row = [&](const uint8_t* row, int64_t x0) {
    if (g.dilation_w == 1 && x0 >= 0 && x0 + g.kw <= g.w) return whole(row + x0 * g.c);
    const uint8_t* patch = patches;
    std::memset(patches, j.zero_point, static_cast<size_t>(g.kw * g.c));
    if (g.dilation_w == 1) {
      const int64_t begin = std::max<int64_t>(0, -x0), cut = std::min(g.kw, g.w - x0);
      if (begin < cut) std::memcpy(patches + begin * g.c, row + (x0 + begin) * g.c, static_cast<size_t>((cut - begin) * g.c));
    } else {
      for (int64_t kx = 0; kx < g.kw; ++kx) {
        const int64_t ix = x0 + kx * g.dilation_w;
        if (ix >= 0 && ix < g.w) std::memcpy(patches + kx * g.c, row + ix * g.c, static_cast<size_t>(g.c));
      }
    }
    patches += bytes;
    return patch;
  };
  const uint8_t* base = j.x + first / pixels * image;
  int64_t oy = first % pixels / j.ow, ox = first % j.ow;
  const uint8_t** p = table.pointers;
  const uint8_t* const* shared = nullptr;  // of a tile of full height whose first pixel's line and column are `origin`
  const uint8_t* origin = nullptr;
  for (int32_t i = 0; i < table.cut.tiles; ++i) {
    const int64_t m = table.tile_begin(i + 1) - table.tile_begin(i);
    const Run run{base, oy, ox, m};
    const Lies lies = place_of(j, run);
    table.tiles[i] = {p, 0};
    if (lies != Lies::apart) {
      const uint8_t* at = base + oy * g.stride_h * line + ox * g.stride_w * g.c;
      if (shared && lies == Lies::within && m == table.cut.tile_rows) {
        table.tiles[i] = {shared, at - origin};
      } else {
        point(j, run, p);
        if (lies == Lies::within && m == table.cut.tile_rows) shared = p, origin = at;
        p += m * w.taps;
      }
      ox += m;
      if (ox < j.ow) continue;
      ox = 0;
      if (++oy < j.oh) continue;
      oy = 0;
      base += image;
      continue;
    }
    for (int64_t r = 0; r < m; ++r) {
      const int64_t y0 = oy * g.stride_h - g.top, x0 = ox * g.stride_w - g.left;
      const uint8_t** out = p + r;
      for (int64_t ky = 0; ky < g.kh; ++ky) {
        const int64_t iy = y0 + ky * g.dilation_h;
        const bool inside = iy >= 0 && iy < g.h;
        const uint8_t* row = base + iy * line;
        if (w.fold_w) {
          *out = inside ? filter_row(row, x0) : j.padding;
          out += m;
          continue;
        }
        for (int64_t kx = 0; kx < g.kw; ++kx, out += m) {
          const int64_t ix = x0 + kx * g.dilation_w;
          *out = inside && ix >= 0 && ix < g.w ? whole(row + ix * g.c) : j.padding;
        }
      }
      if (++ox < j.ow) continue;
      ox = 0;
      if (++oy < j.oh) continue;
      oy = 0;
      base += image;
    }
    p += m * w.taps;
  }
}

// sum of every byte a row of each tile reads, for weights with zero points.
void row_sums(const Job& j, const Table& table, int64_t offset, int32_t* sums) {
  for (int32_t i = 0; i < table.cut.tiles; ++i) {
    const GemmTile& tile = table.tiles[i];
    const int64_t r0 = table.tile_begin(i), m = table.tile_begin(i + 1) - r0;
    for (int64_t r = 0; r < m; ++r) {
      int32_t sum = 0;
      for (int64_t t = 0; t < j.w.taps; ++t)
        for (int64_t k = 0; k < j.w.kc; ++k) sum += tile.rows[t * m + r][tile.offset + offset + k];
      sums[r0 + r] = sum;
    }
  }
}

void panel_tiles(const Job& j, const Epilogue& e, int64_t group, int64_t p, const int8_t* b, int64_t first, const Table& table,
                 gemm_args& g) {
  const int width = j.w.panel_width(p);
  const GemmKernel& kernel = gemm_kernel(j.t, j.w, width, table.cut.m);
  const int64_t row_bytes = j.ldc, column = group * j.w.cout_s + p * kPanel;
  char* c = j.c + first * row_bytes + column * j.size;
  g.width = width;
  g.n = j.w.panel_columns(p);
  g.col = static_cast<int32_t>(group * j.w.n_group_padded + p * kPanel);
  g.b = b;
  g.ep = &e;
  g.ldc = row_bytes;
  g.tiles = table.tiles;
  g.base = j.x + first * j.g.pixel();
  g.lda = static_cast<ptrdiff_t>(j.g.pixel());
  g.row = 0;
  g.c = c;
  if (!j.post) {
    g.m = table.cut.m;
    g.tile_rows = table.cut.tile_rows;
    kernel.fn(g);
    return;
  }
  int64_t finished = 0;
  g.tile_rows = 0;
  for (int32_t i = 0; i < table.cut.tiles; ++i) {
    const int64_t r0 = table.tile_begin(i), r1 = table.tile_begin(i + 1);
    g.m = static_cast<int32_t>(r1 - r0);
    g.row = static_cast<int32_t>(r0);
    g.c = c + r0 * row_bytes;
    kernel.fn(g);
    if (g.tiles) ++g.tiles;
    g.base += g.m * g.lda;
    if (r1 - finished >= kPostRows || r1 == table.cut.m) {
      j.finish(first + finished, r1 - finished, column, g.n);
      finished = r1;
    }
  }
}

// Part `part` of `parts` of the input lines under output pixels [first, end), to be asked for while the pixels before them are
// worked on: a set of groups reads a piece of every pixel, which no hardware prefetches.
struct Piece {
  const uint8_t* begin;
  int64_t bytes;
};
Piece input_ahead(const Job& j, int64_t first, int64_t end, int64_t part, int64_t parts) {
  const Window& g = j.g;
  const int64_t pixels = j.oh * j.ow, line = g.w * g.pixel(), last = end - 1;
  const int64_t y0 = first % pixels / j.ow * g.stride_h - g.top;
  const int64_t y1 = last % pixels / j.ow * g.stride_h - g.top + (g.kh - 1) * g.dilation_h + 1;
  const int64_t from = (first / pixels * g.h + std::max<int64_t>(0, y0)) * line;
  const int64_t bytes = (last / pixels * g.h + std::min(g.h, std::max<int64_t>(0, y1))) * line - from;
  const int64_t begin = bytes * part / parts;
  return {j.x + from + begin, bytes * (part + 1) / parts - begin};
}

void dense(const Job& j) {
  const PackedView& w = j.w;
  const int64_t pixels = j.g.batch * j.oh * j.ow, panels = w.panels_per_group;
  // Sets of merged groups whose channels share cache lines are worked on together, tile by tile.
  const int32_t merged = merged_groups(w);
  int64_t together = merged && !j.post && w.bits == 8 ? kMostSets : 1;
  while (w.sets % together) together /= 2;
  const int64_t sets = w.sets / together;
  // Input behind an output pixel: with strides, of all the pixels that its filter and those beside it read.
  const int64_t strides = std::min(j.g.stride_h, j.g.kh) * std::min(j.g.stride_w, j.g.kw);
  const int64_t tap_bytes = std::max<int64_t>(w.fold_w ? w.kc : w.sets * w.cin_s * strides, 1);
  const int threads = threads_for(pixels * w.n * std::max<int64_t>(w.k, 1), kGrainMacs);
  const int mr = j.t.gemm_for(w.panel_width(0)).mr;
  int64_t block = std::min(kBlockBytes / tap_bytes, kBlockPointers / w.taps) / mr * mr;
  block = std::max<int64_t>(block, 4 * mr);
  int64_t blocks = (pixels + block - 1) / block;
  // A share is some panels of one set of groups on one block. Where every thread can keep all panels in its L2, each gets an
  // equal part of the pixels; else with few blocks and sets the panels are cut too, so that no two threads stream all of them.
  int64_t cuts = 1;
  const bool enough_pixels = pixels >= 4 * mr * threads;
  if (threads > 1 && enough_pixels && w.sets * w.group_panel_bytes() <= kSharedPanelBytes) {
    blocks = (blocks + threads - 1) / threads * threads;
  } else if (threads > 1) {
    blocks = std::max(blocks, std::min<int64_t>((pixels + mr - 1) / mr, (threads + sets * panels - 1) / (sets * panels)));
    // Three panels, or a wide one and a narrow one, are no even work for two threads, nor are seven blocks that are not cut.
    const bool whole = blocks * sets >= 3 * threads, few = blocks * sets * (whole ? 1 : panels) < 16 * threads;
    const bool even = blocks * sets % threads == 0 || (!whole && panels % threads == 0 && w.panel_columns(panels - 1) == kPanel);
    if (!even && few && enough_pixels) blocks = (blocks + threads - 1) / threads * threads;
    if (blocks * sets < 3 * threads) cuts = std::min<int64_t>(panels, (3 * threads + blocks * sets - 1) / (blocks * sets));
  }
  if (dense_inside(j, {threads, blocks, cuts}) || dense_turned(j, threads) || dense_lines(j, threads)) return;
  const bool product = is_product(j);
  const bool ahead = w.sets > 1 && j.g.batch * j.g.h * j.g.w * j.g.pixel() > kL2Bytes;
  parallel_shares(blocks * sets * cuts, threads, [&](int64_t begin, int64_t end) {
    static thread_local Scratch<const uint8_t*> pointers;
    static thread_local Scratch<GemmTile> tiles;
    static thread_local Scratch<uint8_t> patch_bytes;
    static thread_local Scratch<int8_t> expanded;
    static thread_local Scratch<int32_t> sums;
    const int64_t most = (pixels + blocks - 1) / blocks;
    Table table{{}, nullptr, nullptr};
    if (!product) table.tiles = tiles.get(most), table.pointers = pointers.get(most * w.taps);
    uint8_t* patches = w.fold_w || w.kc % 4 ? patch_bytes.get(most * w.taps * span(w)) : nullptr;
    int8_t* scratch = w.bits == 4 ? expanded.get((w.panel_s8_bytes(kPanel) + 127) / 128 * 128) : nullptr;
    Epilogue e = j.e;
    gemm_args g{};
    g.taps = static_cast<int32_t>(w.taps);
    g.kc = static_cast<int32_t>(readable(w));
    g.merged = merged;
    g.sets = static_cast<int32_t>(together);
    g.panel_bytes = static_cast<ptrdiff_t>(w.group_panel_bytes());
    int64_t filled = -1, summed = -1;
    int filled_mr = 0;
    const int64_t last_block = (end - 1) / cuts / sets;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t cut = i % cuts, group = i / cuts % sets * together, b = i / cuts / sets;
      const int64_t first = pixels * b / blocks;
      const int32_t rows = static_cast<int32_t>(pixels * (b + 1) / blocks - first);
      for (int64_t p = panels * cut / cuts; p < panels * (cut + 1) / cuts; ++p) {
        const int height = gemm_kernel(j.t, w, w.panel_width(p), rows).mr;
        if (filled != b || filled_mr != height) {
          table.cut = gemm_cut(rows, height);
          if (!product) fill(j, first, table, patches);
          filled = b;
          filled_mr = height;
          summed = -1;
        }
        g.offset = static_cast<ptrdiff_t>(group * w.cin_s);
        if (w.has_w_zero_point && summed != group) {
          int32_t* s = sums.get(most);
          row_sums(j, table, g.offset, s);
          e.row_sum = s;
          summed = group;
        }
        g.next = !j.post && p + 1 < panels * (cut + 1) / cuts ? panel_ahead(j.t, w, group, p, rows) : nullptr;
        Piece next{nullptr, 0};
        if (ahead && b < last_block)
          next = input_ahead(j, first + rows, pixels * (b + 2) / blocks, group / together * panels + p, sets * panels);
        g.ahead = next.begin;
        g.ahead_bytes = together > 1 ? next.bytes : 0;  // asked for by the kernel; else after it
        panel_tiles(j, e, group, p, panel_as_s8(j.t, w, group, p, scratch), first, table, g);
        for (int64_t at = g.ahead_bytes; at < next.bytes; at += 64) __builtin_prefetch(next.begin + at, 0, 2);
      }
    }
  });
}

}  // namespace

void conv2d(const PackedView& w, const Window& window, const uint8_t* x, void* out, const OutputSpec& spec,
            const Encoding8* encoding, const PostOp* post, int64_t out_stride) {
  if (w.kind == PackedKind::linear) throw Error(Code::packed, "conv2d: this weight was packed by pack_linear; use pack_conv2d");
  Window g = window;
  g.kh = w.kh;
  g.kw = w.kw;
  g.check("conv2d");
  const int64_t channels = w.groups * w.cin_g;
  if (g.c != channels)
    throw Error(Code::shape, "conv2d: x has " + std::to_string(g.c) + " channels but the weight takes " +
                                 std::to_string(channels) + " (" + std::to_string(w.groups) + " groups of " +
                                 std::to_string(w.cin_g) + "); x must be NHWC");
  Job j{table(),
        w,
        g,
        x,
        static_cast<char*>(out),
        make_epilogue(w, spec, {}),
        g.out_h(),
        g.out_w(),
        static_cast<int64_t>(out_size(spec.type)),
        0,
        nullptr,
        out_stride,
        spec,
        post && post->any() ? post : nullptr};
  if (j.ldc == 0) j.ldc = w.n * j.size;
  if (j.ldc < w.n * j.size)
    throw Error(Code::shape, "conv2d: out_stride of " + std::to_string(out_stride) + " bytes is less than a pixel's " +
                                 std::to_string(w.n * j.size));
  if (g.pixel() != g.c && w.kind != PackedKind::depthwise && !is_product(j))
    throw Error(Code::layout, "conv2d: this window does not read pixels that lie further apart than their channels");
  if (j.post) j.post->check("conv2d", spec);
  j.zero_point = static_cast<uint8_t>(w.x_zero_point);
  if (g.batch * j.oh * j.ow * w.n == 0) return;

  static thread_local Scratch<int32_t> folded;
  if (encoding) {
    if (encoding->zero_point != w.x_zero_point && !w.dynamic)
      throw Error(Code::packed, "conv2d: x_zero_point = " + std::to_string(encoding->zero_point) +
                                    " but this weight was packed, and its accumulator proven, for " +
                                    std::to_string(w.x_zero_point) +
                                    "; pack it with the default x_scale and x_zero_point for dynamic inputs");
    j.e.bounded = false;  // the packed bound is of the packed encoding
    int32_t* correction = folded.get(2 * w.n_padded);
    float* scale = reinterpret_cast<float*>(correction + w.n_padded);
    for (int64_t n = 0; n < w.n_padded; ++n) {
      correction[n] = static_cast<int32_t>(w.bias_int32[n] - static_cast<int64_t>(encoding->zero_point) * w.colsum[n]);
      scale[n] = static_cast<float>(static_cast<double>(encoding->scale) * static_cast<double>(w.w_scale[n]));
      if (!std::isfinite(scale[n]))
        throw Error(Code::quantization,
                    "conv2d: x_scale times a weight scale is not finite in float32; recalibrate x's quantizer");
    }
    j.e.correction = correction;
    j.e.scale = scale;
    j.zero_point = static_cast<uint8_t>(encoding->zero_point);
  }

  static thread_local Scratch<uint8_t> padding_bytes;
  const bool is_depthwise = w.kind == PackedKind::depthwise;
  const int64_t padding_size = is_depthwise ? (g.w + 1) * g.pixel() : span(w);
  uint8_t* padding = padding_bytes.get(padding_size);
  std::memset(padding, j.zero_point, static_cast<size_t>(padding_size));
  j.padding = padding;

  if (is_depthwise)
    depthwise(j);
  else
    dense(j);
}

}  // namespace qgemm
