// Depthwise convolutions: rows of the image are bundled by fours for the kernel, which computes one or two output rows of 64
// channels a call.
#include <algorithm>

#include "ops/conv_job.h"
#include "ops/threads.h"

namespace qgemm {
namespace {

constexpr int64_t kCost = 4;                  // a depthwise multiply-add takes about this many of a GEMM's
constexpr int64_t kScratchBytes = 20 * 1024;  // of interleaved columns: with the rows they come from, they stay in L1
constexpr int64_t kStripBytes = 256 * 1024;   // of input rows that every block of channels passes over in turn: they stay in L2
constexpr int64_t kMostScratchBytes = 512 * 1024;  // where a filter spreads wider, each output gathers its own taps

// Fewest bytes of scratch memory that the kernel takes (depthwise_args).
int64_t least_scratch(const depthwise_args& d) {
  const int64_t planes = d.bundles * std::min<int64_t>(d.stride, d.taps), offsets = int64_t(d.bundles) * d.taps * 4;
  return (offsets + 63) / 64 * 64 + 256 * planes * (16 + (d.taps - 1) * d.dilation / d.stride);
}

// The bundled rows of the output rows from oy on, of image `x`.
void point_rows(const ConvJob& j, const uint8_t* x, int64_t oy, int64_t outputs, int64_t channel, const uint8_t** rows) {
  const Window& g = j.g;
  for (int64_t i = 0; i < 4 * j.w.bundles; ++i) {
    // In a bundle along x all four are the same row. One that no tap reads is some row in cache.
    const int64_t y = g.kh == 1 ? 0 : std::min(i, g.kh - 2 + outputs);
    const int64_t iy = oy * g.stride_h - g.top + y * g.dilation_h;
    rows[i] = (iy >= 0 && iy < g.h ? x + iy * g.w * g.c : j.padding) + channel;
  }
}

// The taps of output (oy, ox), each a row of one column.
void point_taps(const ConvJob& j, const uint8_t* x, int64_t oy, int64_t ox, int64_t channel, const uint8_t** rows) {
  const Window& g = j.g;
  for (int64_t q = 0; q < j.w.bundles; ++q)
    for (int64_t t = 0; t < j.w.bundle_taps; ++t)
      for (int64_t i = 0; i < 4; ++i) {
        const int64_t ky = g.kh == 1 ? 0 : std::min(4 * q + i, g.kh - 1), kx = g.kh == 1 ? std::min(4 * t + i, g.kw - 1) : t;
        const int64_t iy = oy * g.stride_h - g.top + ky * g.dilation_h, ix = ox * g.stride_w - g.left + kx * g.dilation_w;
        *rows++ = (iy >= 0 && iy < g.h && ix >= 0 && ix < g.w ? x + (iy * g.w + ix) * g.c : j.padding) + channel;
      }
}

}  // namespace

void depthwise(const ConvJob& j) {
  const Window& g = j.g;
  const PackedView& w = j.w;
  const int64_t blocks = w.panels_per_group, image = g.h * g.w * g.c;
  depthwise_args all{};
  all.pixel = g.c;
  all.first = -g.left;
  all.columns = g.w;
  all.stride = g.stride_w;
  all.dilation = g.kh == 1 ? 4 * g.dilation_w : g.dilation_w;
  all.shift = g.kh == 1 ? g.dilation_w : 0;
  all.bundles = static_cast<int32_t>(w.bundles);
  all.taps = static_cast<int32_t>(w.bundle_taps);
  all.splits = w.parts;
  all.pixels = static_cast<int32_t>(j.ow);
  all.padding = j.zero_point;
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
    all.pixels = 1;
  }
  all.scratch_bytes = std::max(kScratchBytes, least_scratch(all));
  // Rows of output that follow each other share bundles where the window moves by one row.
  const int64_t together = !wide && w.rows_at_once == 2 && g.stride_h == 1 && g.dilation_h == 1 ? 2 : 1;
  const int64_t bands = (j.oh + together - 1) / together, items = g.batch * bands * blocks;
  // Within a strip of bands one block of channels follows the other, and its bands each other: half of a band's rows are in L1.
  const int64_t band_bytes = together * g.stride_h * g.w * g.c;
  const int64_t strip = std::max<int64_t>(1, std::min(bands, kStripBytes / std::max<int64_t>(band_bytes, 1)));
  const int threads = threads_for(g.batch * j.oh * j.ow * w.n * w.taps, kGrainMacs / kCost);
  parallel_shares(items, threads, [&](int64_t begin, int64_t end) {
    static thread_local Scratch<const uint8_t*> pointers;
    static thread_local Scratch<uint8_t> columns;
    const uint8_t** rows = pointers.get(4 * all.bundles);
    uint8_t* const scratch = columns.get(all.scratch_bytes);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / (bands * blocks), in_image = i % (bands * blocks);
      const int64_t first = in_image / (strip * blocks) * strip, in_strip = in_image - first * blocks;
      const int64_t height = std::min(strip, bands - first), block = in_strip / height, channel = block * kPanel;
      const int64_t oy = (first + in_strip % height) * together;
      const uint8_t* x = j.x + b * image;
      depthwise_args d = all;
      d.rows = rows;
      d.scratch = scratch;
      d.outputs = static_cast<int32_t>(std::min(together, j.oh - oy));
      d.channels = static_cast<int32_t>(std::min<int64_t>(kPanel, w.n - channel));
      d.b = reinterpret_cast<const int8_t*>(w.panels) + block * w.panel_stride;
      d.col = static_cast<int32_t>(channel);
      const int64_t pixel = (b * j.oh + oy) * j.ow;
      char* const c = j.c + pixel * j.ldc + channel * j.size;
      for (int64_t ox = 0; ox < j.ow; ox += d.pixels) {
        if (wide)
          point_taps(j, x, oy, ox, channel, rows);
        else
          point_rows(j, x, oy, d.outputs, channel, rows);
        d.c = c + ox * d.ldc;
        j.t.depthwise(d);
      }
      j.finish(pixel, d.outputs * j.ow, channel, d.channels);
    }
  });
}

}  // namespace qgemm
