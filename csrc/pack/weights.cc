#include "pack/weights.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <sstream>
#include <vector>

#include "cpu/dispatch.h"
#include "cpu/error.h"
#include "cpu/threads.h"

namespace qgemm {
namespace {

constexpr char kMagic[8] = {'Q', 'G', 'P', 'A', 'C', 'K', '0', '5'};
constexpr int64_t kMaxDim = int64_t(1) << 31;
constexpr int64_t kMaxBytes = int64_t(1) << 42;
// Panels of this many bytes leave no cache useful anyway: stores then go around it, which saves reading each line first.
constexpr int64_t kStreamBytes = int64_t(1) << 20;
constexpr int64_t kMostRest = 8;  // bytes of all taps that are joined: more take longer to bring together than they save

struct Header {
  char magic[8];
  int32_t kind, bits;
  int64_t n, k, groups, cin_g, kh, kw, group_size, total_bytes;
  float x_scale;
  int32_t x_zero_point;
  int32_t has_w_zero_point, dynamic;
  float y_bound;
  int32_t parts;
  uint32_t check;  // of all the bytes above
  char pad[256 - 8 - 2 * 4 - 8 * 8 - 4 * 4 - 3 * 4];
};
static_assert(sizeof(Header) == 256, "the header is 256 bytes");

constexpr const char* kPackedRemedy = "; pass the buffer that qgemm's pack functions returned, whole and unchanged";

// FNV-1a: tells a header from noise.
uint32_t checksum(const Header& h) {
  uint32_t c = 2166136261u;
  const unsigned char* p = reinterpret_cast<const unsigned char*>(&h);
  for (size_t i = 0; i < offsetof(Header, check); ++i) c = (c ^ p[i]) * 16777619u;
  return c;
}

int64_t round_up(int64_t v, int64_t to) { return (v + to - 1) / to * to; }

[[noreturn]] void fail(Code code, const std::string& name, const std::string& what) {
  throw Error(code, (name.empty() ? std::string() : "layer '" + name + "': ") + what);
}

// Bytes of a panel as stored.
int64_t stored_panel_bytes(const PackedView& v, int width) {
  const int64_t s8 = v.panel_s8_bytes(width);
  return v.bits == 4 ? round_up(s8, 128) / 2 : s8;
}

// Fills every field that follows from the dimensions; array pointers become offsets from `base`.
void lay_out(PackedView& v, const uint8_t* base) {
  v.merged = 1;
  if (v.kind == PackedKind::depthwise) {
    v.cout_g = v.cout_s = v.cin_s = 1;
    v.sets = v.groups;
    v.taps = v.kh * v.kw;
    v.kc = 1;
    v.fold_w = false;
    v.rest_bytes = 0;
    v.k = v.taps;
    v.n_padded = round_up(v.n, 64);
    v.n_group_padded = v.n_padded;
    v.panels_per_group = v.n_padded / 64;
    v.bundles = v.kh == 1 ? 1 : (v.kh + 3) / 4;
    v.bundle_taps = v.kh == 1 ? (v.kw + 3) / 4 : v.kw;
    v.rows_at_once = v.kh == 1 || v.kh % 4 == 0 ? 1 : 2;  // where a bundle has room for the filter one row further down
    v.panel_stride = v.rows_at_once * v.parts * v.bundles * v.bundle_taps * 256;
  } else {
    v.cout_g = v.groups ? v.n / v.groups : 0;
    // Sixteen columns are computed whether they are filled or not, so filling them costs nothing. Weights with zero points are
    // not merged: a row's sum, by which theirs is corrected, is of one group's inputs.
    if (v.kind == PackedKind::conv && !v.has_w_zero_point && v.cout_g > 0)
      for (int64_t m = kPanelAlign / v.cout_g; m > 1 && v.merged == 1; --m)
        if (v.groups % m == 0) v.merged = m;
    v.sets = v.groups / v.merged;
    v.cin_s = v.merged * v.cin_g;
    v.cout_s = v.merged * v.cout_g;
    v.fold_w = v.kind == PackedKind::conv && v.groups == 1 && v.kw > 1 && v.cin_g <= 16;
    if (v.kind == PackedKind::linear) {
      v.taps = 1;
      v.kc = v.k;
    } else {
      v.k = v.cin_g * v.kh * v.kw;
      v.taps = v.fold_w ? v.kh : v.kh * v.kw;
      v.kc = v.fold_w ? v.kw * v.cin_g : v.cin_s;
    }
    const int64_t rest = round_up(v.taps * (v.kc % 4), 4);
    v.rest_bytes =
        v.fold_w && v.bits == 8 && !v.has_w_zero_point && v.kc > 4 && rest < 4 * v.taps && rest <= kMostRest ? rest : 0;
    v.n_group_padded = round_up(v.cout_s, kPanelAlign);
    v.n_padded = v.sets * v.n_group_padded;
    v.panels_per_group = (v.cout_s + kPanel - 1) / kPanel;
    v.panel_stride = stored_panel_bytes(v, kPanel);
  }
  v.group_count = v.group_size > 0 ? (v.k + v.group_size - 1) / v.group_size : 1;
  int64_t offset = sizeof(Header);
  auto take = [&](int64_t bytes) {
    const uint8_t* p = base + offset;
    offset += round_up(bytes, 64);
    return p;
  };
  const int64_t row = v.n_padded * 4;
  v.w_scale = reinterpret_cast<const float*>(take(row));
  v.scale = reinterpret_cast<const float*>(take(row));
  v.bias = reinterpret_cast<const float*>(take(row));
  v.bias_int32 = reinterpret_cast<const int32_t*>(take(row));
  v.colsum = reinterpret_cast<const int32_t*>(take(row));
  v.correction = reinterpret_cast<const int32_t*>(take(row));
  v.w_zero_point = reinterpret_cast<const int32_t*>(take(row));
  v.tap_sums = nullptr;
  if (v.kind == PackedKind::conv && v.taps > 1) v.tap_sums = reinterpret_cast<const int32_t*>(take(row * v.taps));
  v.group_scale = nullptr;
  v.group_colsum = v.group_correction = v.zeros = nullptr;
  if (v.group_size > 0) {
    v.group_scale = reinterpret_cast<const float*>(take(row * v.group_count));
    v.group_colsum = reinterpret_cast<const int32_t*>(take(row * v.group_count));
    v.group_correction = reinterpret_cast<const int32_t*>(take(row * v.group_count));
    v.zeros = reinterpret_cast<const int32_t*>(take(row));
  }
  const int64_t panels = v.kind == PackedKind::depthwise ? v.panels_per_group * v.panel_stride : v.sets * v.group_panel_bytes();
  v.panels = take(panels);
  v.joined = nullptr;
  if (v.rest_bytes > 0) v.joined = take(v.joined_k4() * v.n_padded * 4);
  v.total_bytes = offset;
}

void check_dims(const PackedView& v, Code code, const std::string& name) {
  auto in = [](int64_t x, int64_t lo) { return x >= lo && x < kMaxDim; };
  if (!in(v.n, 0) || !in(v.groups, 1) || v.n % v.groups != 0)
    fail(code, name, "output channels must be >= 0 and a multiple of groups");
  if (v.kind == PackedKind::linear) {
    if (!in(v.k, 0) || v.groups != 1) fail(code, name, "input features must be >= 0 and below 2^31");
    if (v.n > 0 && v.k > kMaxBytes / (v.n + 64)) fail(code, name, "the weight is too large");
  } else {
    if (!in(v.cin_g, 0) || !in(v.kh, 1) || !in(v.kw, 1) || v.kh > 65536 || v.kw > 65536)
      fail(code, name, "filter dimensions must be >= 1 and channels >= 0");
    const int64_t taps = v.kh * v.kw;
    if ((v.cin_g + 3) > kMaxBytes / taps || (v.n + 64 * v.groups) > kMaxBytes / ((v.cin_g + 3) * taps))
      fail(code, name, "the weight is too large");
    if (v.kind == PackedKind::depthwise && (v.cin_g != 1 || v.n != v.groups))
      fail(code, name, "depthwise needs one input channel and one output channel a group");
  }
  if (v.bits != 4 && v.bits != 8) fail(code, name, "bits must be 8 or 4, got " + std::to_string(v.bits));
  if (v.group_size < 0 || v.group_size >= kMaxDim || v.group_size % 4 != 0)
    fail(code, name, "group_size must be 0 (per channel) or a positive multiple of 4, got " + std::to_string(v.group_size));
  if (v.group_size > 0 && v.kind != PackedKind::linear) fail(code, name, "group_size applies to linear layers only");
}

PackedView layout_of(const PackSpec& s) {
  PackedView v{};
  v.kind = s.kind;
  v.n = s.n;
  v.k = s.k;
  v.groups = s.groups;
  v.cin_g = s.cin_g;
  v.kh = s.kh;
  v.kw = s.kw;
  v.bits = s.bits;
  v.group_size = s.group_size;
  v.x_scale = s.x_scale;
  v.x_zero_point = s.x_zero_point;
  v.has_w_zero_point = s.zero_point != nullptr;
  v.dynamic = s.dynamic;
  v.parts = 1;
  if (s.kind == PackedKind::depthwise && s.zero_point) {
    v.parts = 2;  // w - zero_point lies in -255..254, the sum of two bytes; with a zero point of -128 it may be 255
    for (int64_t i = 0; i < s.n; ++i)
      if (s.zero_point[i] == -128) v.parts = 3;
  }
  check_dims(v, Code::shape, s.name);
  lay_out(v, nullptr);
  return v;
}

// Index of channel n in the [n_padded] arrays.
int64_t column(const PackedView& v, int64_t n) {
  if (v.kind == PackedKind::depthwise) return depthwise_position(n);
  return n / v.cout_s * v.n_group_padded + n % v.cout_s;
}

// Where the canonical element (n, kk) of the weight lies: byte index in the panel of its column as the kernels read it (s8).
struct Place {
  int64_t set, panel, byte;
};
Place place(const PackedView& v, int64_t n, int64_t kk) {
  const int64_t set = n / v.cout_s, col = n % v.cout_s, p = col / kPanel;
  int64_t tap = 0, c = kk;
  if (v.kind == PackedKind::conv) {
    const int64_t ci = kk / (v.kh * v.kw), y = kk / v.kw % v.kh, x = kk % v.kw;
    tap = v.fold_w ? y : y * v.kw + x;
    c = v.fold_w ? x * v.cin_g + ci : col / v.cout_g * v.cin_g + ci;
  }
  const int64_t k4 = (v.kc + 3) / 4;
  return {set, p, ((tap * k4 + c / 4) * v.panel_width(p) + col % kPanel) * 4 + c % 4};
}

// Where part `part` of tap kk of depthwise channel n lies in its panel: of the first output row, or of the one below it.
int64_t depthwise_byte(const PackedView& v, int64_t n, int64_t kk, int row, int part) {
  const int64_t y = kk / v.kw + row, x = kk % v.kw;
  const int64_t bundle = v.kh == 1 ? 0 : y / 4, tap = v.kh == 1 ? x / 4 : x, i = v.kh == 1 ? x % 4 : y % 4;
  return ((((row * v.parts + part) * v.bundles + bundle) * v.bundle_taps + tap) * 64 + depthwise_position(n) % 64) * 4 + i;
}

// Byte and shift of s8 element `byte` in a nibble panel.
int64_t nibble_byte(int64_t byte) { return byte / 128 * 64 + byte % 64; }
int nibble_shift(int64_t byte) { return byte % 128 < 64 ? 0 : 4; }

void check_values(const PackSpec& s, const PackedView& v) {
  if (!(std::isfinite(s.x_scale) && s.x_scale > 0))
    fail(Code::quantization, s.name,
         "input scale must be finite and > 0, got " + std::to_string(s.x_scale) + "; recalibrate the input's quantizer");
  if (s.x_zero_point < 0 || s.x_zero_point > 255)
    fail(Code::quantization, s.name, "input zero_point must lie in 0..255, got " + std::to_string(s.x_zero_point));
  const int64_t want = s.group_size > 0 ? s.n * v.group_count : s.n;
  if (s.scale_count != want && !(s.scale_count == 1 && s.group_size == 0))
    fail(Code::shape, s.name,
         "weight scale must have " + std::to_string(want) + (s.group_size > 0 ? "" : " elements, or 1") + ", got " +
             std::to_string(s.scale_count));
  // All at once first, without a branch for each: a grouped weight has many scales. NaN fails every comparison.
  constexpr float kMost = std::numeric_limits<float>::max();
  int good = 1;
  for (int64_t i = 0; i < s.scale_count; ++i)
    good &= (s.scale[i] > 0) & (s.scale[i] <= kMost) & (s.x_scale * s.scale[i] <= kMost);
  for (int64_t i = 0; !good && i < s.scale_count; ++i)
    if (!(std::isfinite(s.scale[i]) && s.scale[i] > 0)) {
      std::ostringstream m;
      m << "weight scale[" << i << "] must be finite and > 0, got " << s.scale[i]
        << "; recalibrate or read the scale from the encodings";
      fail(Code::quantization, s.name, m.str());
    } else if (!std::isfinite(s.x_scale * s.scale[i])) {
      std::ostringstream m;
      m << "input scale " << s.x_scale << " times weight scale[" << i << "] = " << s.scale[i]
        << " is not finite in float32; recalibrate";
      fail(Code::quantization, s.name, m.str());
    }
  if (s.group_size > 0 && s.zero_point)
    fail(Code::quantization, s.name,
         "weight zero points are per channel and do not combine with group_size; use symmetric groups, or no groups");
  if (s.bias)
    for (int64_t i = 0; i < s.n; ++i)
      if (!std::isfinite(s.bias[i])) fail(Code::quantization, s.name, "bias[" + std::to_string(i) + "] is not finite");
  const int lo = s.bits == 4 ? -8 : -128, hi = s.bits == 4 ? 7 : 127;
  if (s.zero_point)
    for (int64_t i = 0; i < s.n; ++i)
      if (s.zero_point[i] < lo || s.zero_point[i] > hi)
        fail(Code::quantization, s.name,
             "weight zero_point[" + std::to_string(i) + "] must lie in " + std::to_string(lo) + ".." + std::to_string(hi) +
                 ", got " + std::to_string(s.zero_point[i]));
}

// What the packing of all panels finds out. Threads keep one each.
struct Findings {
  double y_bound = 0;
  int64_t overflow_channel = -1, overflow = 0;  // the first channel that overflows, and what it can reach
  bool in_range = true;

  void merge(const Findings& o) {
    y_bound = std::max(y_bound, o.y_bound);
    in_range = in_range && o.in_range;
    if (o.overflow_channel >= 0 && (overflow_channel < 0 || o.overflow_channel < overflow_channel))
      overflow_channel = o.overflow_channel, overflow = o.overflow;
  }
};

template <class T>
T* writable(const T* array) {
  return const_cast<T*>(array);
}

// Products in a group up to which what its accumulator can reach, and twice that, fits int32: 128 * 255 each, two times.
constexpr int64_t kNarrowGroup = 32768;
// Scales of 64 channels are read 16 groups at a time: those of a channel lie side by side, in one line of cache.
constexpr int64_t kScaleBlock = 16;
constexpr int64_t kAheadGroups = 4;

// The entries of `count` (1..64) output channels from n on in every array, at indices from `col` on. sum, absolute: of w and of
// |w - zero point|, those of group g and channel n + c at [g * step + c].
void fill_channels(const PackSpec& s, const PackedView& v, int64_t n, int64_t col, int count, const int64_t* sum,
                   const int64_t* absolute, int64_t step, Findings& found) {
  // Values in locals: for all the compiler knows, a store into an array of the buffer could change a field of `s`.
  const float* const scales = s.scale;
  const int32_t *const zero_point = s.zero_point, *const bias_int32 = s.bias_int32;
  const int64_t group_count = v.group_count, x_zero_point = s.x_zero_point;
  const double x_scale = s.x_scale;
  const bool grouped = v.group_size > 0, one_scale = s.scale_count == 1;
  // |sum (xq - zx) * w| is largest where every product has the same sign. P and Q, the sums of positive and of |negative| centred
  // weights, meet inputs that are at most `up` above their zero point and `down` below; a dynamic zero point may be 0 or 255.
  // With size = P + Q and centred = P - Q, the larger of P * up + Q * down and P * down + Q * up is (size * (up + down) +
  // |centred * (up - down)|) / 2.
  const int64_t up = s.dynamic ? 255 : 255 - x_zero_point, down = s.dynamic ? 0 : x_zero_point, skew = up - down;
  int64_t colsum[kPanel] = {}, bias[kPanel] = {}, shift[kPanel] = {};
  double y_most[kPanel] = {};
  float scale[kScaleBlock][kPanel];
  for (int c = 0; c < count; ++c) {
    if (bias_int32) bias[c] = bias_int32[n + c];
    if (zero_point) shift[c] = zero_point[n + c];
  }
  for (int64_t g0 = 0; g0 < group_count; g0 += kScaleBlock) {
    const int64_t block = std::min(kScaleBlock, group_count - g0);
    for (int c = 0; c < count; ++c) {
      const float* const from = scales + (one_scale ? 0 : (n + c) * group_count + g0);
      if (grouped) __builtin_prefetch(from + kScaleBlock);  // the next block's
      for (int64_t g = 0; g < block; ++g) scale[g][c] = from[g];
    }
    for (int64_t g = g0; g < g0 + block; ++g) {
      const int64_t k0 = g * v.group_size, k1 = grouped && k0 + v.group_size < v.k ? k0 + v.group_size : v.k, width = k1 - k0;
      const int64_t *sum_g = sum + g * step, *absolute_g = absolute + g * step;
      const float* scale_of = scale[g - g0];
      float* scale_g = grouped ? writable(v.group_scale) + g * v.n_padded + col : nullptr;
      int32_t* colsum_g = grouped ? writable(v.group_colsum) + g * v.n_padded + col : nullptr;
      int32_t* correction_g = grouped ? writable(v.group_correction) + g * v.n_padded + col : nullptr;
      // The rows of these arrays lie far apart, where no hardware prefetches: their lines are asked for some rows ahead.
      if (grouped && g + kAheadGroups < group_count)
        for (const void* row :
             {static_cast<const void*>(scale_g), static_cast<const void*>(colsum_g), static_cast<const void*>(correction_g)})
          for (int64_t c = 0; c < 4 * count; c += 64)
            __builtin_prefetch(static_cast<const char*>(row) + kAheadGroups * v.n_padded * 4 + c, 1);
      if (grouped && g > 0 && width <= kNarrowGroup) {  // no zero points, and no bias but in the first: the same in int32
        int32_t most[kPanel];
        for (int c = 0; c < count; ++c) {
          const int32_t centred = static_cast<int32_t>(sum_g[c]), skewed = centred * static_cast<int32_t>(skew);
          most[c] = (static_cast<int32_t>(absolute_g[c]) * static_cast<int32_t>(up + down) + (skewed < 0 ? -skewed : skewed)) / 2;
        }
        for (int c = 0; c < count; ++c) y_most[c] += double(most[c]) * x_scale * double(scale_of[c]);
        for (int c = 0; c < count; ++c) colsum[c] += sum_g[c];
      } else {
        int64_t most[kPanel], largest = 0;
        for (int c = 0; c < count; ++c) {
          const int64_t centred = sum_g[c] - width * shift[c], skewed = centred * skew;
          most[c] = (absolute_g[c] * (up + down) + (skewed < 0 ? -skewed : skewed)) / 2 + (bias[c] < 0 ? -bias[c] : bias[c]);
          largest = std::max(largest, most[c]);
          y_most[c] += double(most[c]) * x_scale * double(scale_of[c]);
          colsum[c] += centred;
        }
        for (int c = 0; largest > std::numeric_limits<int32_t>::max() && c < count; ++c)
          if (most[c] > std::numeric_limits<int32_t>::max() && (found.overflow_channel < 0 || n + c < found.overflow_channel))
            found.overflow_channel = n + c, found.overflow = most[c];
      }
      if (!grouped) continue;
      for (int c = 0; c < count; ++c) {
        const int32_t centred = static_cast<int32_t>(sum_g[c]);  // groups have no zero points
        scale_g[c] = scale_of[c];
        colsum_g[c] = centred;
        correction_g[c] = static_cast<int32_t>(bias[c] - x_zero_point * centred);
        bias[c] = 0;
      }
    }
  }
  for (int c = 0; c < count; ++c) {
    const int32_t b32 = s.bias_int32 ? s.bias_int32[n + c] : 0;
    const float w_scale = v.group_size > 0 ? 1.0f : s.scale[s.scale_count == 1 ? 0 : n + c];
    writable(v.w_scale)[col + c] = w_scale;
    writable(v.scale)[col + c] = static_cast<float>(double(s.x_scale) * double(w_scale));
    writable(v.bias)[col + c] = s.bias ? s.bias[n + c] : 0.0f;
    writable(v.bias_int32)[col + c] = b32;
    writable(v.colsum)[col + c] = static_cast<int32_t>(colsum[c]);
    writable(v.correction)[col + c] = static_cast<int32_t>(b32 - s.x_zero_point * colsum[c]);
    writable(v.w_zero_point)[col + c] = s.zero_point ? s.zero_point[n + c] : 0;
    found.y_bound = std::max(found.y_bound, y_most[c] + (s.bias ? std::fabs(double(s.bias[n + c])) : 0.0));
  }
}

// Panel and arrays of 64 depthwise channels.
void pack_depthwise(const PackSpec& s, const PackedView& v, int64_t p, uint8_t* out, Findings& found) {
  std::memset(out, 0, static_cast<size_t>(v.panel_stride));
  for (int64_t n = p * 64; n < v.n && n < (p + 1) * 64; ++n) {
    const int32_t zw = s.zero_point ? s.zero_point[n] : 0;
    int64_t sum = 0, absolute = 0;
    for (int64_t t = 0; t < v.k; ++t) {
      const int8_t w = s.weight[n * v.k + t];
      for (int part = 0, left = w - zw; part < v.parts; ++part) {
        const int byte = left < -128 ? -128 : left > 127 ? 127 : left;
        left -= byte;
        for (int row = 0; row < v.rows_at_once; ++row) out[depthwise_byte(v, n, t, row, part)] = static_cast<uint8_t>(byte);
      }
      sum += w;
      absolute += std::abs(w - zw);
      found.in_range = found.in_range && (s.bits == 8 || (w >= -8 && w <= 7));
    }
    fill_channels(s, v, n, column(v, n), 1, &sum, &absolute, 1, found);
  }
}

// Packs panels of a linear or convolution weight: memory of one thread, and the kernel.
class PanelPacker {
 public:
  PanelPacker(const PackSpec& s, const PackedView& v, const KernelTable& t)
      : s_(s),
        v_(v),
        t_(t),
        one_tap_(v.taps == 1 && !v.fold_w && v.merged == 1),
        k_(one_tap_ ? v.kc : v.taps * round_up(v.kc, 4)),
        sums_(static_cast<size_t>(2 * kPanel * std::max<int64_t>(v.group_count, 1))),
        rows_(one_tap_ ? 0 : static_cast<size_t>(kPanel * k_)) {}

  // Panel p of set g, and its channels' entries in the arrays. stream: the whole is too large for the caches.
  void pack(int64_t g, int64_t p, bool stream, Findings& found) {
    const int64_t first = g * v_.cout_s + p * kPanel;
    int8_t zero_points[kPanel] = {};
    bool in_range = true;
    pack_w_args a{};
    a.w = s_.weight + first * v_.k;
    a.ldw = v_.k;
    a.k = k_;
    a.n = v_.panel_columns(p);
    a.width = v_.panel_width(p);
    a.group = v_.group_size > 0 ? v_.group_size : std::numeric_limits<ptrdiff_t>::max();
    a.bits = v_.bits;
    a.panel = writable(v_.panel(g, p));
    a.stream = stream && reinterpret_cast<uintptr_t>(a.panel) % 64 == 0;
    a.sum = sums_.data();
    a.absolute = a.sum + sums_.size() / 2;
    a.in_range = &in_range;
    if (s_.zero_point) {
      for (int c = 0; c < a.n; ++c) zero_points[c] = static_cast<int8_t>(s_.zero_point[first + c]);
      a.zero_point = zero_points;
    }
    if (!one_tap_) {
      for (int c = 0; c < a.n; ++c) order_taps(a.w + c * v_.k, rows_.data() + c * k_ + (p * kPanel + c) / v_.cout_g * v_.cin_g);
      a.w = rows_.data();
      a.ldw = k_;
      if (v_.tap_sums)
        for (int c = 0; c < a.n; ++c) sum_taps(rows_.data() + c * k_, g * v_.n_group_padded + p * kPanel + c);
    }
    // Each channel's first scales, which fill_channels reads and the hardware does not foresee.
    if (v_.group_size > 0 && s_.scale_count > 1)
      for (int64_t c = 0; c < a.n; ++c) __builtin_prefetch(s_.scale + (first + c) * v_.group_count, 0, 2);
    t_.pack_w(a);
    if (v_.rest_bytes > 0)
      for (int c = 0; c < a.n; ++c) join(rows_.data() + c * k_, c, a.width, writable(v_.joined_panel(p)));
    found.in_range = found.in_range && in_range;
    if (!one_tap_)  // zeros between taps have a distance from the zero point that is no weight's
      for (int c = 0; c < a.n; ++c) a.absolute[c] -= (k_ - v_.k) * std::abs(zero_points[c]);
    fill_channels(s_, v_, first, g * v_.n_group_padded + p * kPanel, a.n, a.sum, a.absolute, a.width, found);
  }

 private:
  // A filter [cin][kh][kw] as [taps][kc rounded up to 4], from its group's first channel on; what lies between stays the zeros it
  // was made as, for a column is of the same place in its set every time.
  void order_taps(const int8_t* w, int8_t* out) const {
    const int64_t stride = round_up(v_.kc, 4);  // from a tap to the next
    for (int64_t ci = 0; ci < v_.cin_g; ++ci)
      for (int64_t y = 0; y < v_.kh; ++y)
        for (int64_t x = 0; x < v_.kw; ++x, ++w)
          out[v_.fold_w ? y * stride + x * v_.cin_g + ci : (y * v_.kw + x) * stride + ci] = *w;
  }

  // Column c of a panel's joined form, from its filter in the order of the taps. What it does not fill is zero already.
  void join(const int8_t* w, int64_t c, int64_t width, uint8_t* panel) const {
    const int64_t whole = v_.kc / 4 * 4, rest = v_.kc % 4;
    for (int64_t t = 0; t < v_.taps; ++t, w += whole + 4)
      for (int64_t k = 0; k < v_.kc; ++k) {
        const int64_t to = k < whole ? t * whole + k : v_.taps * whole + t * rest + k - whole;
        panel[(to / 4 * width + c) * 4 + to % 4] = static_cast<uint8_t>(w[k]);
      }
  }

  // The entries of column `col` in tap_sums, from its filter in the order of the taps.
  void sum_taps(const int8_t* w, int64_t col) const {
    const int64_t bytes = round_up(v_.kc, 4);
    for (int64_t t = 0; t < v_.taps; ++t, w += bytes) {
      int32_t sum = 0;
      for (int64_t k = 0; k < bytes; ++k) sum += w[k];
      writable(v_.tap_sums)[t * v_.n_padded + col] = sum;
    }
  }

  const PackSpec& s_;
  const PackedView& v_;
  const KernelTable& t_;
  const bool one_tap_;
  const int64_t k_;  // products a column holds, those of the rounding between taps included
  std::vector<int64_t> sums_;
  std::vector<int8_t> rows_;
};

[[noreturn]] void out_of_range(const PackSpec& s, const PackedView& v) {
  int64_t i = 0;
  while (i < s.n * v.k && s.weight[i] >= -8 && s.weight[i] <= 7) ++i;
  fail(Code::quantization, s.name,
       "4-bit weights must lie in -8..7, got " + std::to_string(s.weight[i]) + " at element " + std::to_string(i));
}

}  // namespace

int64_t PackedView::group_panel_bytes() const {
  if (kind == PackedKind::depthwise) return panels_per_group * panel_stride;
  if (panels_per_group == 0) return 0;
  const int last = panel_width(panels_per_group - 1);
  const int64_t s8 = panel_s8_bytes(last);
  return (panels_per_group - 1) * panel_stride + (bits == 4 ? round_up(s8, 128) / 2 : s8);
}

int64_t packed_bytes(const PackSpec& spec) { return layout_of(spec).total_bytes; }

void pack(const PackSpec& s, uint8_t* dst) {
  PackedView v = layout_of(s);
  check_values(s, v);
  lay_out(v, dst);
  // Panels are written whole; the padding of arrays, and what rounds the buffer up to 64 bytes, is not.
  const int64_t panel_bytes = v.kind == PackedKind::depthwise ? v.group_panel_bytes() : v.sets * v.group_panel_bytes();
  const uint8_t* const per_channel = reinterpret_cast<const uint8_t*>(v.group_size > 0 ? v.group_scale : nullptr);
  std::memset(dst, 0, static_cast<size_t>((per_channel ? per_channel : v.panels) - dst));
  if (v.group_size > 0) {
    std::memset(writable(v.zeros), 0, static_cast<size_t>(v.n_padded * 4));
    for (int64_t g = 0; g < v.group_count; ++g)
      for (int64_t n = g * v.n_padded + v.n; n < (g + 1) * v.n_padded; ++n)
        writable(v.group_scale)[n] = 0.0f, writable(v.group_colsum)[n] = writable(v.group_correction)[n] = 0;
  }
  std::memset(dst + (v.panels - dst) + panel_bytes, 0, static_cast<size_t>(dst + v.total_bytes - (v.panels + panel_bytes)));

  const int64_t panels = v.kind == PackedKind::depthwise ? v.panels_per_group : v.sets * v.panels_per_group;
  const bool shared = v.n * v.k > (1 << 18) && may_share();
  const bool stream = panel_bytes >= kStreamBytes;
  const KernelTable& t = table();
  const int threads = shared ? static_cast<int>(std::min<int64_t>(omp_get_max_threads(), panels)) : 1;
  std::vector<PanelPacker> packers(v.kind == PackedKind::depthwise ? 0 : static_cast<size_t>(threads), PanelPacker(s, v, t));
  Findings found;
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    Findings own;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < panels; ++i) {
      if (v.kind == PackedKind::depthwise)
        pack_depthwise(s, v, i, writable(v.panels) + i * v.panel_stride, own);
      else
        packers[static_cast<size_t>(omp_get_thread_num())].pack(i / v.panels_per_group, i % v.panels_per_group, stream, own);
    }
#pragma omp critical(qgemm_pack_findings)
    found.merge(own);
  }
  if (!found.in_range) out_of_range(s, v);
  if (found.overflow_channel >= 0) {
    std::ostringstream m;
    m << "output channel " << found.overflow_channel << " can reach an accumulator of " << found.overflow
      << ", which does not fit int32 (K = " << v.k << "); split the layer over K, or use fewer bits for its weights or input";
    fail(Code::overflow, s.name, m.str());
  }

  Header h{};
  std::memcpy(h.magic, kMagic, sizeof(kMagic));
  h.kind = static_cast<int32_t>(v.kind);
  h.bits = v.bits;
  h.n = v.n;
  h.k = v.k;
  h.groups = v.groups;
  h.cin_g = v.cin_g;
  h.kh = v.kh;
  h.kw = v.kw;
  h.group_size = v.group_size;
  h.total_bytes = v.total_bytes;
  h.x_scale = v.x_scale;
  h.x_zero_point = v.x_zero_point;
  h.has_w_zero_point = v.has_w_zero_point;
  h.dynamic = v.dynamic;
  h.parts = v.parts;
  h.y_bound = static_cast<float>(found.y_bound * 1.0001);  // the fp32 roundings on the way
  h.check = checksum(h);
  std::memcpy(dst, &h, sizeof(h));
}

namespace {

PackedView checked_view(const uint8_t* data, int64_t bytes, const Header& h) {
  if (std::memcmp(h.magic, kMagic, sizeof(kMagic)) != 0)
    throw Error(Code::packed, std::string("not a packed weight (bad magic)") + kPackedRemedy);
  if (h.check != checksum(h) || h.kind < 0 || h.kind > 2)
    throw Error(Code::packed, std::string("the packed weight's header is damaged") + kPackedRemedy);
  PackedView v{};
  v.kind = static_cast<PackedKind>(h.kind);
  v.bits = h.bits;
  v.n = h.n;
  v.k = h.k;
  v.groups = h.groups;
  v.cin_g = h.cin_g;
  v.kh = h.kh;
  v.kw = h.kw;
  v.group_size = h.group_size;
  v.x_scale = h.x_scale;
  v.x_zero_point = h.x_zero_point;
  v.has_w_zero_point = h.has_w_zero_point != 0;
  v.dynamic = h.dynamic != 0;
  v.y_bound = h.y_bound;
  v.parts = h.parts;
  if (v.parts < 1 || v.parts > 3) throw Error(Code::packed, std::string("the packed weight's header is damaged") + kPackedRemedy);
  check_dims(v, Code::packed, "");
  lay_out(v, data);
  if (v.total_bytes != bytes)
    throw Error(Code::packed, "the packed weight should have " + std::to_string(v.total_bytes) + " bytes, this buffer has " +
                                  std::to_string(bytes) + kPackedRemedy);
  return v;
}

}  // namespace

PackedView view(const uint8_t* data, int64_t bytes) {
  if (bytes < static_cast<int64_t>(sizeof(Header)))
    throw Error(Code::packed,
                "a packed weight has a header of 256 bytes, this buffer has " + std::to_string(bytes) + kPackedRemedy);
  // A network's calls come back to the same weights, and a tiny product takes no longer than the checks. So those that passed are
  // remembered, each with all that its view follows from: the address, the length and the header as it stood.
  struct Passed {
    const uint8_t* data = nullptr;
    int64_t bytes = 0;
    Header header;
    PackedView view;
  };
  static thread_local Passed passed[64];
  Passed& p = passed[(reinterpret_cast<uintptr_t>(data) / 64 * 0x9e3779b97f4a7c15u) >> 58];
  constexpr size_t kChecked = offsetof(Header, pad);
  if (p.data != data || p.bytes != bytes || std::memcmp(&p.header, data, kChecked) != 0) {
    Header h;
    std::memcpy(&h, data, sizeof(h));
    p.view = checked_view(data, bytes, h);
    p.header = h;
    p.data = data;
    p.bytes = bytes;
  }
  return p.view;
}

void unpack(const PackedView& v, int8_t* weight) {
  const int64_t set_bytes = v.group_panel_bytes();
  const bool nibbles = v.bits == 4;
  if (v.kind == PackedKind::depthwise) {
    for (int64_t n = 0; n < v.n; ++n)
      for (int64_t k = 0; k < v.k; ++k) {
        const int8_t* panel = reinterpret_cast<const int8_t*>(v.panels) + n / 64 * v.panel_stride;
        int w = v.w_zero_point[depthwise_position(n)];
        for (int part = 0; part < v.parts; ++part) w += panel[depthwise_byte(v, n, k, 0, part)];
        weight[n * v.k + k] = static_cast<int8_t>(w);
      }
    return;
  }
  for (int64_t n = 0; n < v.n; ++n)
    for (int64_t k = 0; k < v.k; ++k) {
      const Place p = place(v, n, k);
      const uint8_t* panel = v.panels + p.set * set_bytes + p.panel * v.panel_stride;
      if (nibbles) {
        const int x = (panel[nibble_byte(p.byte)] >> nibble_shift(p.byte)) & 15;
        weight[n * v.k + k] = static_cast<int8_t>((x ^ 8) - 8);
      } else {
        weight[n * v.k + k] = static_cast<int8_t>(panel[p.byte]);
      }
    }
}

}  // namespace qgemm
