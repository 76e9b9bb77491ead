#include "pack/weights.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <sstream>
#include <vector>

#include "cpu/error.h"
#include "cpu/threads.h"

namespace qgemm {
namespace {

constexpr char kMagic[8] = {'Q', 'G', 'P', 'A', 'C', 'K', '0', '1'};
constexpr int64_t kMaxDim = int64_t(1) << 31;
constexpr int64_t kMaxBytes = int64_t(1) << 42;

struct Header {
  char magic[8];
  int32_t kind, bits;
  int64_t n, k, groups, cin_g, kh, kw, group_size, total_bytes;
  float x_scale;
  int32_t x_zero_point;
  int32_t has_w_zero_point, dynamic;
  float y_bound;
  uint32_t zero;
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
  if (v.kind == PackedKind::depthwise) {
    v.cout_g = 1;
    v.taps = v.kh * v.kw;
    v.kc = 1;
    v.fold_w = false;
    v.k = v.taps;
    v.n_padded = round_up(v.n, 64);
    v.n_group_padded = v.n_padded;
    v.panels_per_group = v.n_padded / 64;
    v.panel_stride = (v.taps + 3) / 4 * 256;
  } else {
    v.cout_g = v.groups ? v.n / v.groups : 0;
    v.fold_w = v.kind == PackedKind::conv && v.groups == 1 && v.kw > 1 && v.cin_g <= 16;
    if (v.kind == PackedKind::linear) {
      v.taps = 1;
      v.kc = v.k;
    } else {
      v.k = v.cin_g * v.kh * v.kw;
      v.taps = v.fold_w ? v.kh : v.kh * v.kw;
      v.kc = v.fold_w ? v.kw * v.cin_g : v.cin_g;
    }
    v.n_group_padded = round_up(v.cout_g, kPanelAlign);
    v.n_padded = v.groups * v.n_group_padded;
    v.panels_per_group = (v.cout_g + kPanel - 1) / kPanel;
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
  v.group_scale = nullptr;
  v.group_colsum = v.group_correction = v.zeros = nullptr;
  if (v.group_size > 0) {
    v.group_scale = reinterpret_cast<const float*>(take(row * v.group_count));
    v.group_colsum = reinterpret_cast<const int32_t*>(take(row * v.group_count));
    v.group_correction = reinterpret_cast<const int32_t*>(take(row * v.group_count));
    v.zeros = reinterpret_cast<const int32_t*>(take(row));
  }
  const int64_t panels = v.kind == PackedKind::depthwise ? v.panels_per_group * v.panel_stride : v.groups * v.group_panel_bytes();
  v.panels = take(panels);
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
  check_dims(v, Code::shape, s.name);
  lay_out(v, nullptr);
  return v;
}

// Index of channel n in the [n_padded] arrays.
int64_t column(const PackedView& v, int64_t n) {
  if (v.kind == PackedKind::depthwise) return depthwise_position(n);
  return n / v.cout_g * v.n_group_padded + n % v.cout_g;
}

// Where the canonical element (n, kk) of the weight lies: byte index in the panel of its column as the kernels read it (s8).
struct Place {
  int64_t group, panel, byte;
};
Place place(const PackedView& v, int64_t n, int64_t kk) {
  if (v.kind == PackedKind::depthwise) {
    const int64_t pos = depthwise_position(n);
    return {0, pos / 64, (kk / 4 * 64 + pos % 64) * 4 + kk % 4};
  }
  const int64_t g = n / v.cout_g, col = n % v.cout_g, p = col / kPanel;
  int64_t tap = 0, c = kk;
  if (v.kind == PackedKind::conv) {
    const int64_t ci = kk / (v.kh * v.kw), y = kk / v.kw % v.kh, x = kk % v.kw;
    tap = v.fold_w ? y : y * v.kw + x;
    c = v.fold_w ? x * v.cin_g + ci : ci;
  }
  const int64_t k4 = (v.kc + 3) / 4;
  return {g, p, ((tap * k4 + c / 4) * v.panel_width(p) + col % kPanel) * 4 + c % 4};
}

// Byte and shift of s8 element `byte` in a nibble panel.
int64_t nibble_byte(int64_t byte) { return byte / 128 * 64 + byte % 64; }
int nibble_shift(int64_t byte) { return byte % 128 < 64 ? 0 : 4; }

// The largest |sum (xq - zx) * w| over every input, P and Q the sums of positive and of |negative| centred weights.
int64_t bound(const PackSpec& s, int64_t p, int64_t q) {
  if (s.dynamic) return 255 * (p > q ? p : q);
  const int64_t up = 255 - s.x_zero_point, down = s.x_zero_point;
  const int64_t a = p * up + q * down, b = p * down + q * up;
  return a > b ? a : b;
}

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
  for (int64_t i = 0; i < s.scale_count; ++i)
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
  if (s.bits == 4)
    for (int64_t i = 0; i < s.n * v.k; ++i)
      if (s.weight[i] < lo || s.weight[i] > hi)
        fail(Code::quantization, s.name,
             "4-bit weights must lie in -8..7, got " + std::to_string(s.weight[i]) + " at element " + std::to_string(i));
}

// Everything of the buffer that is an array over output channels. Proves every accumulator on the way. Returns y_bound.
float fill_arrays(const PackSpec& s, const PackedView& v) {
  auto put = [](const auto* array, int64_t i, auto value) {
    using T = decltype(value);
    const_cast<T*>(static_cast<const T*>(array))[i] = value;
  };
  int64_t worst_channel = -1, worst = 0;  // the first channel that overflows
  double y_bound = 0;
#pragma omp parallel for schedule(static) reduction(max : y_bound) if (v.n * v.k > (1 << 18) && may_share())
  for (int64_t n = 0; n < v.n; ++n) {
    const int64_t col = column(v, n);
    const int32_t zw = s.zero_point ? s.zero_point[n] : 0;
    const int32_t b32 = s.bias_int32 ? s.bias_int32[n] : 0;
    int64_t colsum = 0;
    double y_most = 0;
    for (int64_t g = 0; g < v.group_count; ++g) {
      const int64_t k0 = g * v.group_size, k1 = v.group_size > 0 && k0 + v.group_size < v.k ? k0 + v.group_size : v.k;
      int64_t sum = 0, absolute = 0;
      for (int64_t k = k0; k < k1;) {  // int32 within a stretch that cannot overflow, so that the compiler vectorizes it
        const int64_t stop = k1 - k > (1 << 20) ? k + (1 << 20) : k1;
        int32_t part = 0, part_absolute = 0;
        for (; k < stop; ++k) {
          const int32_t w = int32_t(s.weight[n * v.k + k]) - zw;
          part += w;
          part_absolute += w < 0 ? -w : w;
        }
        sum += part;
        absolute += part_absolute;
      }
      colsum += sum;
      const int64_t most = bound(s, (absolute + sum) / 2, (absolute - sum) / 2) + std::llabs(b32);
      if (most > std::numeric_limits<int32_t>::max()) {
#pragma omp critical(qgemm_pack_overflow)
        if (worst_channel < 0 || n < worst_channel) worst_channel = n, worst = most;
      }
      y_most += double(most) * double(s.x_scale) * double(s.scale[s.scale_count == 1 ? 0 : n * v.group_count + g]);
      if (v.group_size > 0) {
        put(v.group_scale, g * v.n_padded + col, s.scale[n * v.group_count + g]);
        put(v.group_colsum, g * v.n_padded + col, static_cast<int32_t>(sum));
        put(v.group_correction, g * v.n_padded + col, static_cast<int32_t>((g == 0 ? b32 : 0) - s.x_zero_point * sum));
      }
    }
    const float w_scale = v.group_size > 0 ? 1.0f : s.scale[s.scale_count == 1 ? 0 : n];
    put(v.w_scale, col, w_scale);
    put(v.scale, col, static_cast<float>(double(s.x_scale) * double(w_scale)));
    put(v.bias, col, s.bias ? s.bias[n] : 0.0f);
    put(v.bias_int32, col, b32);
    put(v.colsum, col, static_cast<int32_t>(colsum));
    put(v.correction, col, static_cast<int32_t>(b32 - s.x_zero_point * colsum));
    put(v.w_zero_point, col, zw);
    y_bound = std::max(y_bound, y_most + (s.bias ? std::fabs(double(s.bias[n])) : 0.0));
  }
  if (worst_channel >= 0) {
    std::ostringstream m;
    m << "output channel " << worst_channel << " can reach an accumulator of " << worst
      << ", which does not fit int32 (K = " << v.k << "); split the layer over K, or use fewer bits for its weights or input";
    fail(Code::overflow, s.name, m.str());
  }
  return static_cast<float>(y_bound * 1.0001);  // the fp32 roundings on the way
}

// One zero-filled s8 panel, as the kernels read it.
void fill_panel(const int8_t* weight, const PackedView& v, int64_t g, int64_t p, int8_t* out) {
  if (v.kind == PackedKind::depthwise) {
    for (int64_t n = p * 64; n < v.n && n < (p + 1) * 64; ++n)
      for (int64_t t = 0; t < v.k; ++t) out[place(v, n, t).byte] = weight[n * v.k + t];
    return;
  }
  const int64_t width = v.panel_width(p), columns = v.panel_columns(p), k4 = (v.kc + 3) / 4;
  const int8_t* first = weight + (g * v.cout_g + p * kPanel) * v.k;
  if (v.k == v.kc && !v.fold_w) {  // one tap in canonical order: a row of the weight is a column of the panel. A cache line of
                                   // each row at a time.
    for (int64_t k0 = 0; k0 < v.k; k0 += 64) {
      const int64_t k1 = k0 + 64 < v.k ? k0 + 64 : v.k;
      for (int64_t c = 0; c < columns; ++c) {
        const int8_t* w = first + c * v.k;
        int8_t* to = out + c * 4;
        int64_t k = k0;
        for (; k + 4 <= k1; k += 4) std::memcpy(to + k * width, w + k, 4);
        for (; k < k1; ++k) to[k / 4 * 4 * width + k % 4] = w[k];
      }
    }
    return;
  }
  for (int64_t c = 0; c < columns; ++c) {
    const int8_t* w = first + c * v.k;
    for (int64_t ci = 0; ci < v.cin_g; ++ci)
      for (int64_t y = 0; y < v.kh; ++y)
        for (int64_t x = 0; x < v.kw; ++x, ++w) {
          const int64_t tap = v.fold_w ? y : y * v.kw + x, k = v.fold_w ? x * v.cin_g + ci : ci;
          out[((tap * k4 + k / 4) * width + c) * 4 + k % 4] = *w;
        }
  }
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
  std::memset(dst, 0, static_cast<size_t>(v.total_bytes));
  lay_out(v, dst);

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
  h.y_bound = fill_arrays(s, v);
  h.check = checksum(h);
  std::memcpy(dst, &h, sizeof(h));

  const int64_t panels = v.kind == PackedKind::depthwise ? v.panels_per_group : v.groups * v.panels_per_group;
  const bool nibbles = v.bits == 4 && v.kind != PackedKind::depthwise;
  const bool shared = v.n * v.k > (1 << 18) && may_share();
  const size_t wide_bytes = nibbles ? static_cast<size_t>(round_up(v.panel_s8_bytes(kPanel), 128)) : 0;
  std::vector<int8_t> wide_all(wide_bytes * static_cast<size_t>(shared ? omp_get_max_threads() : 1));
#pragma omp parallel if (shared)
  {
    int8_t* wide = wide_all.data() + static_cast<size_t>(omp_get_thread_num()) * wide_bytes;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < panels; ++i) {
      const int64_t g = i / v.panels_per_group, p = i % v.panels_per_group;
      uint8_t* stored = const_cast<uint8_t*>(v.panels) + g * v.group_panel_bytes() + p * v.panel_stride;
      if (!nibbles) {
        fill_panel(s.weight, v, g, p, reinterpret_cast<int8_t*>(stored));
        continue;
      }
      std::fill(wide, wide + wide_bytes, int8_t(0));
      fill_panel(s.weight, v, g, p, wide);
      const int64_t bytes = round_up(v.panel_s8_bytes(v.panel_width(p)), 128);
      for (int64_t at = 0; at < bytes; at += 128)
        for (int64_t j = 0; j < 64; ++j)
          stored[at / 2 + j] = static_cast<uint8_t>((wide[at + j] & 15) | (wide[at + 64 + j] & 15) << 4);
    }
  }
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
  const int64_t group_bytes = v.group_panel_bytes();
  const bool nibbles = v.bits == 4 && v.kind != PackedKind::depthwise;
  for (int64_t n = 0; n < v.n; ++n)
    for (int64_t k = 0; k < v.k; ++k) {
      const Place p = place(v, n, k);
      const uint8_t* panel = v.panels + p.group * group_bytes + p.panel * v.panel_stride;
      if (nibbles) {
        const int x = (panel[nibble_byte(p.byte)] >> nibble_shift(p.byte)) & 15;
        weight[n * v.k + k] = static_cast<int8_t>((x ^ 8) - 8);
      } else {
        weight[n * v.k + k] = static_cast<int8_t>(panel[p.byte]);
      }
    }
}

}  // namespace qgemm
