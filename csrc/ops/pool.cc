#include "ops/pool.h"

#include <algorithm>
#include <cmath>
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

// What all rows of a pooling share.
template <class Args>
Args args_of(const Window& w, int64_t ldo) {
  Args all{};
  all.taps = static_cast<int32_t>(w.kw);
  all.first = -w.left;
  all.columns = w.w;
  all.stride = w.stride_w;
  all.dilation = w.dilation_w;
  all.pixels = static_cast<int32_t>(w.out_w());
  all.channels = static_cast<int32_t>(w.c);
  all.pixel = static_cast<ptrdiff_t>(w.pixel());
  all.ldo = static_cast<ptrdiff_t>(ldo);
  all.ldr = static_cast<ptrdiff_t>(w.out_w() * ldo);
  return all;
}

constexpr int64_t kMostPointers = 256;  // to the rows that a call of several output rows reads

// f(args) for all output rows, several at a time where their windows lie within the image's height. Threads share rows, and
// channels by 64 where rows are few.
template <class Args, class F>
void each_row(const Window& w, const uint8_t* x, uint8_t* out, const Args& all, F&& f) {
  const int64_t oh = w.out_h(), ow = w.out_w(), rows = w.batch * oh, line = w.w * w.pixel(), blocks = (w.c + 63) / 64;
  const int64_t reach = (w.kh - 1) * w.dilation_h;  // rows from a window's first to its last
  const int threads = threads_for(rows * ow * w.c * most_taps(w), 4 * kGrainBytes);
  const int64_t parts = rows >= threads ? 1 : std::min(blocks, (threads + rows - 1) / rows);
  parallel_shares(rows * parts, threads, [&](int64_t begin, int64_t end) {
    static thread_local Scratch<const uint8_t*> pointers;
    const uint8_t** const lines = pointers.get(std::max(std::min(w.kh, w.h), kMostPointers));
    Args g = all;
    g.rows = lines;
    for (int64_t i = begin; i < end; i += g.outputs) {
      const int64_t r = i / parts, part = i % parts, image = r / oh, oy = r % oh, top = oy * w.stride_h - w.top;
      const int64_t channel = blocks * part / parts * 64;
      g.channels = static_cast<int32_t>(std::min(blocks * (part + 1) / parts * 64, w.c) - channel);
      int64_t outputs = 1;
      if (parts == 1 && top >= 0 && top + reach < w.h)
        outputs =
            std::min({end - i, (w.h - 1 - reach - top) / w.stride_h + 1, oh - oy, std::max<int64_t>(kMostPointers / w.kh, 1)});
      g.outputs = static_cast<int32_t>(outputs);
      const uint8_t** next = lines;
      for (int64_t o = 0; o < outputs; ++o)
        for (int64_t iy = top + o * w.stride_h, ky = 0; ky < w.kh; ++ky, iy += w.dilation_h)
          if (iy >= 0 && iy < w.h) *next++ = x + (image * w.h + iy) * line + channel;
      g.height = static_cast<int32_t>((next - lines) / outputs);
      g.out = out + r * ow * all.ldo + channel;
      f(g);
    }
  });
}

// The scale of a window's sum, `count` positions of which lie in the image.
float average_scale(const Window& w, const Encoding8& ex, bool count_include_pad, int64_t count) {
  if (count_include_pad) count = w.kh * w.kw;
  return count ? ex.scale / static_cast<float>(count) : 0.0f;
}

constexpr int64_t kTriedTaps = 9;  // of the largest window whose sums are all tried

// What the definition makes of every sum of `count` bytes, on the u8 grid.
std::vector<uint8_t> averages(int64_t count, const Encoding8& ex, float scale, const OutputSpec& out) {
  const float inv_scale = 1.0f / out.scale;
  const auto lo = static_cast<float>(out.lo - out.zero_point), hi = static_cast<float>(out.hi - out.zero_point);
  std::vector<uint8_t> bytes(static_cast<size_t>(255 * count + 1));
  for (int64_t sum = 0; sum <= 255 * count; ++sum) {
    float t = static_cast<float>(sum - count * ex.zero_point) * scale * inv_scale;
    t = t < hi ? t : hi;
    t = t > lo ? t : lo;
    bytes[static_cast<size_t>(sum)] = static_cast<uint8_t>(static_cast<int32_t>(std::nearbyint(t)) + out.zero_point);
  }
  return bytes;
}

// Whether `factor` gives these averages.
bool same_averages(const std::vector<uint8_t>& want, int64_t zero, const OutputSpec& out, float factor) {
  for (size_t sum = 0; sum < want.size(); ++sum) {
    const double got =
        std::nearbyint((static_cast<double>(sum) - static_cast<double>(zero)) * factor + out.zero_point);  // exact up to rounding
    if (!(std::fabs(got) < 32768) || std::clamp(got, double(out.lo), double(out.hi)) != want[sum]) return false;
  }
  return true;
}

// What `words` make of a sum.
int64_t by_words(const average_words& words, int64_t sum) {
  const int64_t s = sum * words.weight;
  if (words.form == WordsForm::thresholds) return (s >> 8) + ((s & 255) >= words.threshold[s >> 8]);
  const int64_t q = words.form == WordsForm::rounded
                        ? (s * words.factor + (1 << 14)) >> 15
                        : std::max<int64_t>(s + words.offset, 0) * words.factor >> (16 + words.shift);
  return std::min<int64_t>(q, 255);
}
bool same_averages(const std::vector<uint8_t>& want, const average_words& words) {
  for (size_t sum = 0; sum < want.size(); ++sum)
    if (by_words(words, static_cast<int64_t>(sum)) != want[sum]) return false;
  return true;
}

// The least number whose product with the factor, shifted, is q.
int64_t reached_from(int64_t q, int64_t factor, int shift) { return ((q << (16 + shift)) + factor - 1) / factor; }

// Offsets with which sums, times weight, reach each whole number where the averages do: lo to hi. `first`: the first sum whose
// average is that or more, [0] for `least`.
struct Offsets {
  int64_t lo, hi;
};
Offsets offsets(const std::vector<int32_t>& first, int64_t least, int64_t weight, int64_t factor, int shift) {
  Offsets o{INT32_MIN, INT32_MAX};
  const auto n = static_cast<int64_t>(first.size());
  constexpr int64_t kStep = 8;  // most factors fail early where numbers far apart come first
  for (int64_t from = 0; from < kStep; ++from)
    for (int64_t i = from; i < n && o.lo <= o.hi; i += kStep) {
      if (least + i == 0) continue;  // whatever is less counts as 0
      const int64_t reached = reached_from(least + i, factor, shift), sum = first[static_cast<size_t>(i)];
      o.lo = std::max(o.lo, reached - weight * sum);
      if (sum > 0) o.hi = std::min(o.hi, reached - 1 - weight * (sum - 1));
    }
  return o;
}

// Each looks for an end of its form for these averages, which lie `rate` apart on the grid.
bool find_rounded(const std::vector<uint8_t>& want, double rate, average_words& words) {
  words = {};
  words.form = WordsForm::rounded;
  words.weight = 1;
  const double factor = std::rint(rate * (1 << 15));
  if (!(factor < 1 << 15)) return false;
  words.factor = static_cast<uint16_t>(factor);
  return same_averages(want, words);
}

// With the largest weight for which one of three factors has an offset.
bool find_shifted(const std::vector<uint8_t>& want, double rate, average_words& words) {
  constexpr int64_t kMostWord = 65535;
  const auto most = static_cast<int64_t>(want.size()) - 1;
  const int64_t least = want.front(), largest = want.back();
  std::vector<int32_t> first;
  for (size_t sum = 0; sum < want.size(); ++sum)
    while (least + static_cast<int64_t>(first.size()) <= want[sum]) first.push_back(static_cast<int32_t>(sum));
  words = {};
  words.form = WordsForm::shifted;
  for (int64_t weight = std::min<int64_t>(64, kMostWord / most); weight > 0; --weight) {
    int exponent = 0;
    std::frexp(rate / static_cast<double>(weight), &exponent);
    const int shift = -exponent;  // the factor has 16 bits
    if (shift < 1 || shift > 15) continue;
    const int64_t near = std::lround(std::ldexp(rate / static_cast<double>(weight), 16 + shift));
    for (const int64_t factor : {near, near - 1, near + 1}) {
      if (factor > kMostWord) continue;
      Offsets o = offsets(first, least, weight, factor, shift);
      if (largest < 255) o.hi = std::min(o.hi, reached_from(largest + 1, factor, shift) - 1 - weight * most);  // no further
      o.lo = std::max(o.lo, -kMostWord), o.hi = std::min(o.hi, kMostWord - weight * most);
      if (o.lo > o.hi) continue;
      words.weight = static_cast<uint8_t>(weight);
      words.factor = static_cast<uint16_t>(factor);
      words.offset = static_cast<int32_t>((o.lo + o.hi) / 2);
      words.shift = shift;
      if (same_averages(want, words)) return true;
    }
  }
  return false;
}

// Averages in whole steps, or one more from some fraction on: the same scale before and after, and a count that is a power of
// two.
bool find_thresholds(const std::vector<uint8_t>& want, average_words& words) {
  const auto count = static_cast<int64_t>(want.size()) / 255;
  if (256 % count || 256 / count > 64) return false;
  words = {};
  words.form = WordsForm::thresholds;
  words.weight = static_cast<uint8_t>(256 / count);
  for (int64_t q = 0; q < 256; ++q) {
    int64_t part = 0;
    while (part < count && q * count + part < static_cast<int64_t>(want.size()) &&
           want[static_cast<size_t>(q * count + part)] == q)
      ++part;
    words.threshold[q] = static_cast<uint8_t>(std::min<int64_t>(part * words.weight, 255));
  }
  return same_averages(want, words);
}

// Bytes out.
void average_bytes(const Window& w, const uint8_t* x, const Encoding8& ex, bool count_include_pad, uint8_t* c, int64_t ldo,
                   const OutputSpec& out, const AverageEnds* ends) {
  average_pool_args all = args_of<average_pool_args>(w, ldo);
  all.x_zero_point = ex.zero_point;
  all.inv_scale = 1.0f / out.scale;
  all.zero_point = out.zero_point;
  all.lo = out.lo;
  all.hi = out.hi;
  all.flip = out.type == OutType::s8 ? 0x80 : 0;
  all.bounded = 256.0f * ex.scale * all.inv_scale < 1073741824.0f;  // an average is no larger than a value; false also for NaN
  const KernelTable& t = table();
  each_row(w, x, c, all, [&](average_pool_args& g) {
    static thread_local Scratch<float> floats;
    const int64_t most = std::min(w.kw, w.w);  // columns that a window can cover
    float* scale = floats.get(most + 1);
    for (int64_t i = 0; i <= most; ++i) scale[i] = average_scale(w, ex, count_include_pad, g.height * i);
    g.scale = scale;
    if (ends) {
      const AverageEnd& end = (*ends)[static_cast<size_t>(g.height)];
      g.factor = end.factor;
      g.words = end.words.empty() ? nullptr : end.words.data();
    }
    t.average_pool(g);
  });
}

// Floats out: the exact sums first.
void average_floats(const Window& w, const uint8_t* x, const Encoding8& ex, bool count_include_pad, char* c, int64_t ldo,
                    const OutputSpec& out) {
  const int64_t oh = w.out_h(), ow = w.out_w(), rows = w.batch * oh, image = w.h * w.w * w.pixel();
  const int64_t padded_c = (w.c + 15) / 16 * 16;
  const KernelTable& t = table();
  parallel_shares(rows, threads_for(rows * ow * w.c * most_taps(w), 4 * kGrainBytes), [&](int64_t begin, int64_t end) {
    static thread_local Scratch<const uint8_t*> pointers;
    static thread_local Scratch<int32_t> words;
    const uint8_t** taps = pointers.get(most_taps(w));
    int32_t* sum = words.get(4 * padded_c);
    int32_t* correction = sum + padded_c;
    float* scale = reinterpret_cast<float*>(sum + 2 * padded_c);
    float* bias = reinterpret_cast<float*>(sum + 3 * padded_c);
    for (int64_t i = 0; i < padded_c; ++i) sum[i] = 0, bias[i] = 0.0f;
    Epilogue e{};
    e.correction = correction;
    e.scale = scale;
    e.bias = bias;
    e.f_lo = out.f_lo;
    e.f_hi = out.f_hi;
    e.out = out.type;
    sum_pool_args s{};
    s.a = taps;
    s.channels = static_cast<int32_t>(w.c);
    s.sum = sum;
    requantize_args q{};
    q.acc = sum;
    q.n = static_cast<int32_t>(w.c);
    q.ep = &e;
    int64_t last_taps = -1;
    for (int64_t r = begin; r < end; ++r)
      for (int64_t ox = 0; ox < ow; ++ox) {
        s.taps = gather(w, x + r / oh * image, r % oh, ox, taps);
        if (s.taps != last_taps) {
          const float f = average_scale(w, ex, count_include_pad, s.taps);
          for (int64_t i = 0; i < padded_c; ++i) correction[i] = -s.taps * ex.zero_point, scale[i] = f;
          last_taps = s.taps;
        }
        t.sum_pool(s);
        q.c = c + (r * ow + ox) * ldo;
        t.requantize(q);
      }
  });
}

constexpr int64_t kMostShared = 5;        // rows of the largest windows of which the maxima's kernel makes two at a time
constexpr Isa kShares = Isa::avx512vnni;  // from this path on; elsewhere a row that is read twice takes its time

}  // namespace

void max_pool2d(const Window& w, const uint8_t* x, uint8_t* out, int64_t out_stride) {
  const auto all = args_of<max_pool_args>(w, out_stride ? out_stride : w.c);
  const int64_t oh = w.out_h(), rows = w.batch * oh, line = w.w * w.pixel();
  if (rows * all.pixels * w.c == 0) return;
  const KernelTable& t = table();
  const int threads = threads_for(rows * all.pixels * w.c * most_taps(w), 4 * kGrainBytes);
  const bool all_hold_rows = w.h > 0 && w.kh > w.top && (oh - 1) * w.stride_h - w.top < w.h;
  if (w.dilation_h != 1 || w.kh > kMostShared || t.isa < kShares || !all_hold_rows || rows < threads)
    return each_row(w, x, out, all, [&](max_pool_args& g) {
      g.advance = g.height;
      t.max_pool(g);
    });
  // One call for all of an image's rows that a thread makes. A row twice changes no maximum, so windows that reach above or below
  // the image have its first or last one more than once.
  parallel_shares(rows, threads, [&](int64_t begin, int64_t end) {
    static thread_local Scratch<const uint8_t*> pointers;
    const uint8_t** const lines = pointers.get((oh - 1) * w.stride_h + w.kh);
    max_pool_args g = all;
    g.rows = lines;
    g.height = static_cast<int32_t>(w.kh);
    g.advance = static_cast<int32_t>(w.stride_h);
    for (int64_t r = begin; r < end; r += g.outputs) {
      const int64_t image = r / oh, oy = r - image * oh, top = oy * w.stride_h - w.top;
      g.outputs = static_cast<int32_t>(std::min(end - r, oh - oy));
      const int64_t count = (g.outputs - 1) * w.stride_h + w.kh, above = std::max<int64_t>(-top, 0),
                    below = std::min(w.h - top, count);
      const uint8_t* at = x + (image * w.h + top + above) * line;
      std::fill(lines, lines + above, at);
      for (int64_t i = above; i < below; ++i, at += line) lines[i] = at;
      std::fill(lines + below, lines + count, at - line);
      g.out = out + r * all.ldr;
      t.max_pool(g);
    }
  });
}

std::shared_ptr<const AverageEnds> average_ends(const Window& w, const Encoding8& ex, bool count_include_pad,
                                                const OutputSpec& out) {
  if (w.kh * w.kw > kTriedTaps || (out.type != OutType::u8 && out.type != OutType::s8)) return nullptr;
  const auto made = std::make_shared<AverageEnds>(static_cast<size_t>(w.kh + 1));
  const bool unbounded = out.type == OutType::u8 && out.lo == 0 && out.hi == 255;
  // Padding leaves a window that much less, where it lies at the image's border.
  for (int64_t height = std::max<int64_t>(w.kh - std::max(w.top, w.bottom), 1); height <= std::min(w.kh, w.h); ++height) {
    AverageEnd& end = (*made)[static_cast<size_t>(height)];
    if (unbounded) end.words.resize(static_cast<size_t>(w.kw + 1));
    for (int64_t covered = std::max<int64_t>(w.kw - std::max(w.left, w.right), 1); covered <= w.kw; ++covered) {
      const int64_t count = height * covered;
      const float scale = average_scale(w, ex, count_include_pad, count), factor = scale * (1.0f / out.scale);
      const std::vector<uint8_t> want = averages(count, ex, scale, out);
      if (covered == w.kw)
        for (const float f : {factor, std::nextafter(factor, 0.0f), std::nextafter(factor, 2 * factor)})
          if (f > 0 && same_averages(want, count * ex.zero_point, out, f)) {
            end.factor = f;
            break;
          }
      average_words words{};
      if (unbounded && factor > 0 && std::isfinite(factor) &&
          (find_rounded(want, factor, words) || find_shifted(want, factor, words) || find_thresholds(want, words)))
        end.words[static_cast<size_t>(covered)] = words;
    }
  }
  return made;
}

void avg_pool2d(const Window& w, const uint8_t* x, const Encoding8& ex, bool count_include_pad, void* c, const OutputSpec& out,
                int64_t out_stride, const AverageEnds* ends) {
  if (w.batch * w.out_h() * w.out_w() * w.c == 0) return;
  if (w.kh * w.kw > (int64_t(1) << 31) / 255)
    throw Error(Code::overflow, "a pooling window of " + std::to_string(w.kh) + " x " + std::to_string(w.kw) +
                                    " can exceed the int32 accumulator; pool in two steps");
  const int64_t ldo = out_stride ? out_stride : w.c * static_cast<int64_t>(out_size(out.type));
  if (out.type == OutType::u8 || out.type == OutType::s8)
    average_bytes(w, x, ex, count_include_pad, static_cast<uint8_t*>(c), ldo, out, ends);
  else
    average_floats(w, x, ex, count_include_pad, static_cast<char*>(c), ldo, out);
}

}  // namespace qgemm
