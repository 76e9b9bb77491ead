#include "pack/transposed.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "cpu/error.h"

namespace qgemm {
namespace {

constexpr char kMagic[8] = {'Q', 'G', 'P', 'A', 'C', 'K', 'T', '1'};
constexpr int64_t kMaxDim = int64_t(1) << 31;
constexpr int64_t kMaxRemainders = 4096;  // a weight for each: more is no image network, and each has a header

struct Header {
  char magic[8];
  int64_t n, groups, cin_g, kh, kw, stride_h, stride_w, dilation_h, dilation_w, total_bytes;
  int32_t bits, has_w_zero_point, dynamic, x_zero_point;
  float x_scale;
  uint32_t check;  // of all the bytes above
  char pad[256 - 8 - 10 * 8 - 6 * 4];
};
static_assert(sizeof(Header) == 256, "the header is 256 bytes");

uint32_t checksum(const Header& h) {
  uint32_t c = 2166136261u;
  const unsigned char* p = reinterpret_cast<const unsigned char*>(&h);
  for (size_t i = 0; i < offsetof(Header, check); ++i) c = (c ^ p[i]) * 16777619u;
  return c;
}

void check_dims(const TransposedDims& d, Code code, const std::string& name) {
  const std::string who = name.empty() ? "" : "layer '" + name + "': ";
  auto need = [&](int64_t v, int64_t least, int64_t most, const char* what) {
    if (v < least || v > most)
      throw Error(code, who + what + " must lie in " + std::to_string(least) + ".." + std::to_string(most) + ", got " +
                            std::to_string(v));
  };
  need(d.n, 0, kMaxDim - 1, "output channels");
  need(d.groups, 1, kMaxDim - 1, "groups");
  need(d.cin_g, 0, kMaxDim - 1, "input channels a group");
  need(d.kh, 1, 65536, "kernel height");
  need(d.kw, 1, 65536, "kernel width");
  need(d.stride_h, 1, kMaxRemainders, "stride[0]");
  need(d.stride_w, 1, kMaxRemainders, "stride[1]");
  need(d.dilation_h, 1, kMaxDim - 1, "dilation[0]");
  need(d.dilation_w, 1, kMaxDim - 1, "dilation[1]");
  if (d.n % d.groups != 0) throw Error(code, who + "output channels must be a multiple of groups");
  if (d.stride_h * d.stride_w > kMaxRemainders)
    throw Error(code, who + "a stride of " + std::to_string(d.stride_h) + " x " + std::to_string(d.stride_w) + " is beyond " +
                          std::to_string(kMaxRemainders) + " sub-kernels; upsample in two steps");
}

int64_t count_of_remainder(int64_t k, int64_t stride, int64_t dilation, int64_t remainder) {
  int64_t n = 0;
  for (int64_t i = 0; i < k; ++i) n += i * dilation % stride == remainder;
  return n;
}

// The convolution of one remainder, without its weight.
PackSpec remainder_spec(const TransposedDims& d, const PackSpec& common, int64_t ry, int64_t rx) {
  PackSpec s = common;
  s.n = d.n;
  s.groups = d.groups;
  s.cin_g = d.cin_g;
  s.kh = count_of_remainder(d.kh, d.stride_h, d.dilation_h, ry);
  s.kw = count_of_remainder(d.kw, d.stride_w, d.dilation_w, rx);
  if (s.kh == 0 || s.kw == 0) s.kh = s.kw = 1;
  s.weight = nullptr;
  // The driver of many taps takes depthwise weights without zero points only; with them each channel is a group of its own.
  s.kind = d.groups > 1 && d.cin_g == 1 && d.n == d.groups && !s.zero_point ? PackedKind::depthwise : PackedKind::conv;
  return s;
}

// Calls f(index in the transposed weight, index in the remainder's) for every value of a remainder's weight that a tap gives.
template <class F>
void each_value(const TransposedDims& d, int64_t ry, int64_t rx, F&& f) {
  std::vector<int64_t> ys(static_cast<size_t>(d.kh)), xs(static_cast<size_t>(d.kw));
  const int64_t th = taps_of_remainder(d.kh, d.stride_h, d.dilation_h, ry, ys.data()),
                tw = taps_of_remainder(d.kw, d.stride_w, d.dilation_w, rx, xs.data()), cout_g = d.n / d.groups;
  for (int64_t o = 0; o < d.n; ++o)
    for (int64_t ci = 0; ci < d.cin_g; ++ci) {
      const int64_t from = ((o / cout_g * d.cin_g + ci) * cout_g + o % cout_g) * d.kh * d.kw, to = (o * d.cin_g + ci) * th * tw;
      for (int64_t y = 0; y < th; ++y)
        for (int64_t x = 0; x < tw; ++x)
          f(from + ys[static_cast<size_t>(y)] * d.kw + xs[static_cast<size_t>(x)], to + y * tw + x);
    }
}

int64_t total_bytes(const TransposedDims& d, const PackSpec& common) {
  int64_t total = sizeof(Header);
  for (int64_t ry = 0; ry < d.stride_h; ++ry)
    for (int64_t rx = 0; rx < d.stride_w; ++rx) total += packed_bytes(remainder_spec(d, common, ry, rx));
  return total;
}

// Enough of a PackSpec for the dimensions of a remainder's weight.
PackSpec common_of(const TransposedView& v) {
  static const int32_t some = 0;
  PackSpec s;
  s.bits = v.bits;
  s.zero_point = v.has_w_zero_point ? &some : nullptr;
  return s;
}

}  // namespace

int64_t taps_of_remainder(int64_t k, int64_t stride, int64_t dilation, int64_t remainder, int64_t* taps) {
  int64_t n = 0;
  for (int64_t i = k - 1; i >= 0; --i)
    if (i * dilation % stride == remainder) taps[n++] = i;
  return n;
}

int64_t packed_bytes(const TransposedSpec& spec) {
  check_dims(spec.dims, Code::shape, spec.common.name);
  return total_bytes(spec.dims, spec.common);
}

void pack(const TransposedSpec& spec, uint8_t* dst) {
  const TransposedDims& d = spec.dims;
  Header h{};
  std::memcpy(h.magic, kMagic, sizeof(kMagic));
  h.n = d.n;
  h.groups = d.groups;
  h.cin_g = d.cin_g;
  h.kh = d.kh;
  h.kw = d.kw;
  h.stride_h = d.stride_h;
  h.stride_w = d.stride_w;
  h.dilation_h = d.dilation_h;
  h.dilation_w = d.dilation_w;
  h.bits = spec.common.bits;
  h.has_w_zero_point = spec.common.zero_point != nullptr;
  h.dynamic = spec.common.dynamic;
  h.x_scale = spec.common.x_scale;
  h.x_zero_point = spec.common.x_zero_point;
  h.total_bytes = packed_bytes(spec);
  h.check = checksum(h);
  uint8_t* at = dst + sizeof(Header);
  std::vector<int8_t> weight;
  for (int64_t ry = 0; ry < d.stride_h; ++ry)
    for (int64_t rx = 0; rx < d.stride_w; ++rx) {
      PackSpec s = remainder_spec(d, spec.common, ry, rx);
      const int64_t k = s.cin_g * s.kh * s.kw;
      weight.assign(static_cast<size_t>(s.n * k), 0);
      if (s.zero_point)  // a value that no tap gives is real zero
        for (int64_t o = 0; o < s.n; ++o) std::fill_n(weight.begin() + o * k, k, static_cast<int8_t>(s.zero_point[o]));
      each_value(d, ry, rx, [&](int64_t from, int64_t to) { weight[static_cast<size_t>(to)] = spec.weight[from]; });
      s.weight = weight.data();
      pack(s, at);
      at += packed_bytes(s);
    }
  std::memcpy(dst, &h, sizeof(h));
}

bool is_transposed(const uint8_t* data, int64_t bytes) {
  return bytes >= static_cast<int64_t>(sizeof(Header)) && std::memcmp(data, kMagic, sizeof(kMagic)) == 0;
}

TransposedView view_transposed(const uint8_t* data, int64_t bytes) {
  const char* remedy = "; pass the buffer that qgemm's pack functions returned, whole and unchanged";
  if (bytes < static_cast<int64_t>(sizeof(Header)))
    throw Error(Code::packed, "a packed weight has a header of 256 bytes, this buffer has " + std::to_string(bytes) + remedy);
  if (!is_transposed(data, bytes))
    throw Error(Code::packed, "not the packed weight of a transposed convolution; use pack_conv_transpose2d");
  Header h;
  std::memcpy(&h, data, sizeof(h));
  if (h.check != checksum(h)) throw Error(Code::packed, std::string("the packed weight's header is damaged") + remedy);
  TransposedView v{};
  v.dims = {h.n, h.groups, h.cin_g, h.kh, h.kw, h.stride_h, h.stride_w, h.dilation_h, h.dilation_w};
  v.bits = h.bits;
  v.has_w_zero_point = h.has_w_zero_point != 0;
  v.dynamic = h.dynamic != 0;
  v.x_scale = h.x_scale;
  v.x_zero_point = h.x_zero_point;
  v.total_bytes = h.total_bytes;
  v.data = data + sizeof(Header);
  check_dims(v.dims, Code::packed, "");
  const int64_t want = total_bytes(v.dims, common_of(v));
  if (h.total_bytes != bytes || want != bytes)
    throw Error(Code::packed, "the packed weight should have " + std::to_string(want) + " bytes, this buffer has " +
                                  std::to_string(bytes) + remedy);
  return v;
}

PackedView remainder_view(const TransposedView& v, int64_t ry, int64_t rx, const uint8_t* at, int64_t* bytes) {
  const PackSpec want = remainder_spec(v.dims, common_of(v), ry, rx);
  *bytes = packed_bytes(want);
  const PackedView w = view(at, *bytes);
  if (w.kind != want.kind || w.n != want.n || w.groups != want.groups || w.cin_g != want.cin_g || w.kh != want.kh ||
      w.kw != want.kw || w.bits != want.bits || w.has_w_zero_point != v.has_w_zero_point)
    throw Error(Code::packed,
                "a part of the packed weight belongs to another one; pass the buffer that qgemm's pack functions returned, whole "
                "and unchanged");
  return w;
}

void unpack(const TransposedView& v, int8_t* weight) {
  std::vector<int8_t> part;
  each_remainder(v, [&](int64_t ry, int64_t rx, const PackedView& w) {
    part.resize(static_cast<size_t>(w.n * w.k));
    unpack(w, part.data());
    each_value(v.dims, ry, rx, [&](int64_t from, int64_t to) { weight[from] = part[static_cast<size_t>(to)]; });
  });
}

}  // namespace qgemm
