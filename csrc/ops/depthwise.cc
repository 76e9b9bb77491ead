// Depthwise convolutions: strips of output rows, whose input rows the kernel bundles by fours.
#include <algorithm>

#include "ops/conv_job.h"
#include "ops/threads.h"

namespace qgemm {
namespace {

constexpr int64_t kCost = 4;                  // a depthwise multiply-add takes about this many of a GEMM's
constexpr int64_t kScratchBytes = 28 * 1024;  // of interleaved columns: most of it stays in L1 beside the rows it comes from
constexpr int64_t kStripBytes = 256 * 1024;   // of input rows that every block of channels passes over in turn: they stay in L2
constexpr int64_t kNearBytes = 5 << 20;       // of all input and output, up to which fetching rows ahead costs more than it saves
constexpr int64_t kMostScratchBytes = 512 * 1024;  // where a filter spreads wider, each output gathers its own taps

// Fewest bytes of scratch memory that the kernel takes (depthwise_args).
int64_t least_scratch(const depthwise_args& d) {
  const int64_t planes = d.bundles * std::min<int64_t>(d.stride, d.taps), offsets = int64_t(d.bundles) * d.taps * 4;
  return (offsets + 63) / 64 * 64 + 256 * planes * (16 + (d.taps - 1) * d.dilation / d.stride);
}

// Rows of the image for `outputs` output rows from oy on, `advance` pointers from one to the next.
void point_rows(const ConvJob& j, const uint8_t* x, int64_t oy, int64_t outputs, int64_t advance, int64_t channel,
                const uint8_t** rows) {
  const Window& g = j.g;
  const auto at = [&](int64_t iy) { return (iy >= 0 && iy < g.h ? x + iy * g.w * g.pixel() : j.padding) + channel; };
  const int64_t bundled = 4 * j.w.bundles;
  if (advance < bundled) {  // each pointer is the next row
    for (int64_t i = 0; i < (outputs - 1) * advance + bundled; ++i) *rows++ = at(oy * g.stride_h - g.top + i);
    return;
  }
  for (int64_t o = oy; o < oy + outputs; ++o)
    for (int64_t i = 0; i < bundled;
         ++i)  // in a bundle along x all four are the same row; one that no tap reads is some row in cache
      *rows++ = at(o * g.stride_h - g.top + (g.kh == 1 ? 0 : std::min(i, g.kh - 1)) * g.dilation_h);
}

// Into how many parts of the channels threads cut the work, which they then share by bands of two rows: few bands, of which one
// may be a single row, leave one thread with more than the others. As many as make shares even; each part passes over the image
// anew, so that one has at least two lines of a pixel.
int64_t even_parts(int64_t batch, int64_t bands, int64_t oh, int64_t blocks, int threads) {
  constexpr int64_t kManyBands = 16, kMostParts = 4;  // kManyBands: of a thread
  if (threads == 1 || batch * bands >= kManyBands * threads) return 1;
  const int64_t needed = (threads + batch * bands - 1) / (batch * bands);
  const int64_t most = std::min(blocks, std::max(needed, std::min(kMostParts, blocks / 2)));
  int64_t best = 1, least = 0;
  for (int64_t parts = 1; parts <= most; ++parts) {
    int64_t largest = 0;  // share, in rows of 64 channels
    for (int64_t t = 0, n = batch * parts * bands, i = 0; t < threads; ++t) {
      int64_t share = 0;
      for (; i < n * (t + 1) / threads; ++i) {
        const int64_t part = i / bands % parts;
        share += std::min<int64_t>(2, oh - i % bands * 2) * (blocks * (part + 1) / parts - blocks * part / parts);
      }
      largest = std::max(largest, share);
    }
    if (parts == 1 || largest * 100 < least * 97) best = parts, least = largest;
  }
  return best;
}

// The taps of output (oy, ox), each a row of one column.
void point_taps(const ConvJob& j, const uint8_t* x, int64_t oy, int64_t ox, int64_t channel, const uint8_t** rows) {
  const Window& g = j.g;
  for (int64_t q = 0; q < j.w.bundles; ++q)
    for (int64_t t = 0; t < j.w.bundle_taps; ++t)
      for (int64_t i = 0; i < 4; ++i) {
        const int64_t ky = g.kh == 1 ? 0 : std::min(4 * q + i, g.kh - 1), kx = g.kh == 1 ? std::min(4 * t + i, g.kw - 1) : t;
        const int64_t iy = oy * g.stride_h - g.top + ky * g.dilation_h, ix = ox * g.stride_w - g.left + kx * g.dilation_w;
        *rows++ = (iy >= 0 && iy < g.h && ix >= 0 && ix < g.w ? x + (iy * g.w + ix) * g.pixel() : j.padding) + channel;
      }
}

}  // namespace

void depthwise(const ConvJob& j) {
  const Window& g = j.g;
  const PackedView& w = j.w;
  const int64_t blocks = w.panels_per_group, image = g.h * g.w * g.pixel();
  depthwise_args all{};
  all.pixel = static_cast<ptrdiff_t>(g.pixel());
  all.first = -g.left;
  all.columns = g.w;
  all.stride = g.stride_w;
  all.dilation = g.kh == 1 ? 4 * g.dilation_w : g.dilation_w;
  all.shift = g.kh == 1 ? g.dilation_w : 0;
  all.bundles = static_cast<int32_t>(w.bundles);
  all.taps = static_cast<int32_t>(w.bundle_taps);
  all.splits = w.parts;
  all.height = static_cast<int32_t>(g.kh);
  all.pixels = static_cast<int32_t>(j.ow);
  all.padding = j.zero_point;
  all.far = g.batch * (image + j.oh * j.ow * j.ldc) > kNearBytes;
  all.block = w.panel_stride;
  all.ep = &j.e;
  all.ldc = j.ldc;
  all.ldr = j.ow * all.ldc;
  const bool wide = least_scratch(all) > kMostScratchBytes;
  if (wide) {
    all.first = 0;
    all.columns = 1;
    all.stride = all.dilation = 1;
    all.shift = 0;
    all.bundles = static_cast<int32_t>(w.bundles * w.bundle_taps);
    all.taps = 1;
    all.height = 4 * all.bundles;
    all.pixels = 1;
  }
  all.scratch_bytes = std::max(kScratchBytes, least_scratch(all));
  // Output rows share pointers where their windows are dense and overlap.
  const int64_t bundled = 4 * all.bundles;
  all.advance = !wide && g.kh > 1 && g.dilation_h == 1 && g.stride_h < bundled ? g.stride_h : bundled;
  if (all.advance == 1 && w.rows_at_once == 2) all.below = w.panel_stride / 2;
  // A strip of output rows a call; threads share bands of two rows, and blocks of channels where bands are few.
  const int64_t bands = (j.oh + 1) / 2, row_bytes = g.stride_h * g.w * g.pixel();
  const int64_t strip = wide ? 1 : std::max<int64_t>(2, kStripBytes / std::max<int64_t>(row_bytes, 1) / 2 * 2);
  const int threads = threads_for(g.batch * j.oh * j.ow * w.n * w.taps, kGrainMacs / kCost);
  // Threads that write parts of one cache line would take it from each other.
  const bool lines = all.ldc % 64 == 0 || g.batch * bands < threads;
  const int64_t parts = lines ? even_parts(g.batch, bands, j.oh, blocks, threads) : 1;
  parallel_shares(g.batch * parts * bands, threads, [&](int64_t begin, int64_t end) {
    static thread_local Scratch<const uint8_t*> pointers;
    static thread_local Scratch<uint8_t> columns;
    const uint8_t** rows = pointers.get((strip - 1) * all.advance + bundled);
    depthwise_args d = all;
    d.rows = rows;
    d.scratch = columns.get(all.scratch_bytes);
    for (int64_t i = begin, next; i < end; i = next) {
      const int64_t part = i / bands % parts, first = i % bands, b = i / bands / parts;
      next = std::min(end, i - first + bands);
      const int64_t channel = blocks * part / parts * kPanel, last_row = std::min(j.oh, (first + next - i) * 2);
      d.channels = static_cast<int32_t>(std::min(blocks * (part + 1) / parts * kPanel, w.n) - channel);
      d.b = reinterpret_cast<const int8_t*>(w.panels) + channel / kPanel * all.block;
      d.col = static_cast<int32_t>(channel);
      const uint8_t* x = j.x + b * image;
      for (int64_t oy = first * 2; oy < last_row; oy += d.outputs) {
        d.outputs = static_cast<int32_t>(std::min(strip, last_row - oy));
        const int64_t pixel = (b * j.oh + oy) * j.ow;
        char* const c = j.c + pixel * j.ldc + channel * j.size;
        for (int64_t ox = 0; ox < j.ow; ox += d.pixels) {
          if (wide)
            point_taps(j, x, oy, ox, channel, rows);
          else
            point_rows(j, x, oy, d.outputs, all.advance, channel, rows);
          d.c = c + ox * d.ldc;
          j.t.depthwise(d);
        }
        j.finish(pixel, d.outputs * j.ow, channel, d.channels);
      }
    }
  });
}

}  // namespace qgemm
