#include "ops/pool.h"

#include <algorithm>
#include <string>

#include "cpu/error.h"
#include "ops/conv_job.h"
#include "ops/threads.h"

namespace qgemm {
namespace {

// Pointers to the window's pixels inside the image, at output position (oy, ox) of image `x`. Returns how many.
int32_t gather(const Window& w, const uint8_t* x, int64_t oy, int64_t ox, const uint8_t** taps) {
  int32_t n = 0;
  const int64_t y0 = oy * w.stride_h - w.top, x0 = ox * w.stride_w - w.left;
  for (int64_t ky = 0; ky < w.kh; ++ky) {
    const int64_t iy = y0 + ky * w.dilation_h;
    if (iy < 0 || iy >= w.h) continue;
    for (int64_t kx = 0; kx < w.kw; ++kx) {
      const int64_t ix = x0 + kx * w.dilation_w;
      if (ix < 0 || ix >= w.w) continue;
      taps[n++] = x + (iy * w.w + ix) * w.pixel();
    }
  }
  return n;
}

// Most pixels of the image that a window can hold, however far it reaches into the padding.
int64_t most_taps(const Window& w) { return std::min(w.kh, w.h) * std::min(w.kw, w.w); }

// An epilogue whose arrays are these.
Epilogue epilogue_of(const OutputSpec& out, const int32_t* correction, const float* scale, const float* bias) {
  Epilogue e{};
  e.correction = correction;
  e.scale = scale;
  e.bias = bias;
  e.inv_scale = 1.0f / out.scale;
  e.zero_point = out.zero_point;
  e.lo = out.lo;
  e.hi = out.hi;
  e.f_lo = out.f_lo;
  e.f_hi = out.f_hi;
  e.out = out.type;
  return e;
}

constexpr int64_t kMostFilterTaps = 64;  // beyond them a sum by pointers reads fewer bytes for each output

// A window whose every output averages kh * kw values, padding included, is a depthwise convolution with ones.
void average_as_convolution(const Window& w, const uint8_t* x, const Encoding8& ex, void* c, int64_t ldc, const OutputSpec& out) {
  static thread_local Scratch<uint8_t> memory;
  const int64_t blocks = (w.c + kPanel - 1) / kPanel, padded = blocks * kPanel, row = (w.w + 1) * w.pixel();
  const bool along_x = w.kh == 1;
  PackedView v{};
  v.kind = PackedKind::depthwise;
  v.n = w.c;
  v.kh = w.kh;
  v.kw = w.kw;
  v.taps = w.kh * w.kw;
  v.parts = 1;
  v.bundles = along_x ? 1 : (w.kh + 3) / 4;
  v.bundle_taps = along_x ? (w.kw + 3) / 4 : w.kw;
  v.rows_at_once = w.kh % 4 == 0 || along_x ? 1 : 2;
  v.panels_per_group = blocks;
  const int64_t form = v.bundles * v.bundle_taps * 256;
  v.panel_stride = v.rows_at_once * form;
  uint8_t* panel = memory.get(v.panel_stride + 12 * padded + row);
  int32_t* correction = reinterpret_cast<int32_t*>(panel + v.panel_stride);
  float* scale = reinterpret_cast<float*>(correction + padded);
  float* bias = scale + padded;
  uint8_t* padding = reinterpret_cast<uint8_t*>(bias + padded);
  for (int64_t at = 0; at < v.panel_stride; ++at) {
    const int64_t in_form = at % form, i = at % 4, lower = at / form;
    const int64_t k = (along_x ? in_form / 256 * 4 : in_form / (v.bundle_taps * 256) * 4) + i - lower;
    panel[at] = k >= 0 && k < (along_x ? w.kw : w.kh);
  }
  const float factor = ex.scale / static_cast<float>(v.taps);
  std::fill_n(correction, padded, static_cast<int32_t>(-v.taps * ex.zero_point));
  std::fill_n(scale, padded, factor);
  std::fill_n(bias, padded, 0.0f);
  std::fill_n(padding, row, static_cast<uint8_t>(ex.zero_point));
  v.panels = panel;
  Epilogue e = epilogue_of(out, correction, scale, bias);
  e.bounded = 255.0f * static_cast<float>(v.taps) * factor * e.inv_scale < 1073741824.0f;  // false also for NaN
  const int64_t size = static_cast<int64_t>(out_size(out.type));
  depthwise({table(), v, w, x, static_cast<char*>(c), e, w.out_h(), w.out_w(), size, static_cast<uint8_t>(ex.zero_point), padding,
             ldc, out, nullptr, true});
}

// Positions of a window of k starting at `first` that lie in [0, limit).
int64_t inside(int64_t first, int64_t k, int64_t dilation, int64_t limit) {
  int64_t n = 0;
  for (int64_t i = 0; i < k; ++i) {
    const int64_t p = first + i * dilation;
    n += p >= 0 && p < limit;
  }
  return n;
}

}  // namespace

void max_pool2d(const Window& w, const uint8_t* x, uint8_t* out, int64_t out_stride) {
  const int64_t oh = w.out_h(), ow = w.out_w(), rows = w.batch * oh, line = w.w * w.pixel();
  const int64_t ldo = out_stride ? out_stride : w.c;
  if (rows * ow * w.c == 0) return;
  const KernelTable& t = table();
  max_pool_args all{};
  all.taps = static_cast<int32_t>(w.kw);
  all.first = -w.left;
  all.columns = w.w;
  all.stride = w.stride_w;
  all.dilation = w.dilation_w;
  all.pixels = static_cast<int32_t>(ow);
  all.channels = static_cast<int32_t>(w.c);
  all.pixel = static_cast<ptrdiff_t>(w.pixel());
  all.ldo = static_cast<ptrdiff_t>(ldo);
  parallel_shares(rows, threads_for(rows * ow * w.c * most_taps(w), 4 * kGrainBytes), [&](int64_t begin, int64_t end) {
    static thread_local Scratch<const uint8_t*> pointers;
    const uint8_t** lines = pointers.get(std::min(w.kh, w.h));
    max_pool_args g = all;
    g.rows = lines;
    for (int64_t r = begin; r < end; ++r) {
      g.height = 0;
      for (int64_t ky = 0; ky < w.kh; ++ky) {
        const int64_t iy = r % oh * w.stride_h - w.top + ky * w.dilation_h;
        if (iy >= 0 && iy < w.h) lines[g.height++] = x + (r / oh * w.h + iy) * line;
      }
      g.out = out + r * ow * ldo;
      t.max_pool(g);
    }
  });
}

void avg_pool2d(const Window& w, const uint8_t* x, const Encoding8& ex, bool count_include_pad, void* c, const OutputSpec& out,
                int64_t out_stride) {
  const int64_t oh = w.out_h(), ow = w.out_w(), rows = w.batch * oh, image = w.h * w.w * w.pixel();
  if (rows * ow * w.c == 0) return;
  if (w.kh * w.kw > (int64_t(1) << 31) / 255)
    throw Error(Code::overflow, "a pooling window of " + std::to_string(w.kh) + " x " + std::to_string(w.kw) +
                                    " can exceed the int32 accumulator; pool in two steps");
  const bool padded = w.top || w.left || w.bottom || w.right;
  const KernelTable& t = table();
  const int64_t padded_c = (w.c + 15) / 16 * 16;
  const int64_t ldo = out_stride ? out_stride : w.c * static_cast<int64_t>(out_size(out.type));
  if ((count_include_pad || !padded) && w.kh * w.kw <= kMostFilterTaps && oh * ow > 1)
    return average_as_convolution(w, x, ex, c, ldo, out);
  parallel_shares(rows, threads_for(rows * ow * w.c * most_taps(w), 4 * kGrainBytes), [&](int64_t begin, int64_t end) {
    static thread_local Scratch<const uint8_t*> pointers;
    static thread_local Scratch<int32_t> words;
    const uint8_t** taps = pointers.get(most_taps(w));
    int32_t* sum = words.get(4 * padded_c);
    int32_t* correction = sum + padded_c;
    float* scale = reinterpret_cast<float*>(sum + 2 * padded_c);
    float* bias = reinterpret_cast<float*>(sum + 3 * padded_c);
    for (int64_t i = 0; i < padded_c; ++i) sum[i] = 0, bias[i] = 0.0f;
    const Epilogue e = epilogue_of(out, correction, scale, bias);
    sum_pool_args s{};
    s.a = taps;
    s.channels = static_cast<int32_t>(w.c);
    s.sum = sum;
    requantize_args q{};
    q.acc = sum;
    q.n = static_cast<int32_t>(w.c);
    q.ep = &e;
    int64_t last_count = -1, last_taps = -1;
    for (int64_t r = begin; r < end; ++r) {
      const int64_t y0 = r % oh * w.stride_h - w.top;
      for (int64_t ox = 0; ox < ow; ++ox) {
        s.taps = gather(w, x + r / oh * image, r % oh, ox, taps);
        int64_t count = s.taps;
        if (count_include_pad)
          count = inside(y0 + w.top, w.kh, w.dilation_h, w.h + w.top + w.bottom) *
                  inside(ox * w.stride_w, w.kw, w.dilation_w, w.w + w.left + w.right);
        if (count != last_count || s.taps != last_taps) {
          const float f = count ? ex.scale / static_cast<float>(count) : 0.0f;
          for (int64_t i = 0; i < padded_c; ++i) correction[i] = -s.taps * ex.zero_point, scale[i] = f;
          last_count = count;
          last_taps = s.taps;
        }
        t.sum_pool(s);
        q.c = static_cast<char*>(c) + (r * ow + ox) * ldo;
        t.requantize(q);
      }
    }
  });
}

}  // namespace qgemm
