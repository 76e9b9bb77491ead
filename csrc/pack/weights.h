// Canonical weights -> one packed buffer that holds everything a forward needs and that no forward recomputes: panels in the
// order the kernels read them, scales, float bias, column sums, folded zero points. docs/packing.md draws every byte.
//
// The buffer is position independent and self-describing: a header, then arrays and panels at offsets that follow from the
// header's dimensions alone. `view()` recomputes them and compares with the buffer's length, so a cut or foreign buffer is
// refused, never read. The layout is the same for every ISA path.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

namespace qgemm {

enum class PackedKind : int32_t { linear = 0, conv = 1, depthwise = 2 };

constexpr int kPanel = 64;       // columns of a full panel
constexpr int kPanelAlign = 16;  // the last panel is this many columns, or 32, 48, 64

struct PackSpec {
  PackedKind kind = PackedKind::linear;
  int64_t n = 0;                   // output features or channels, all groups
  int64_t k = 0;                   // linear: input features
  int64_t groups = 1;              // convolution groups
  int64_t cin_g = 0;               // conv: input channels a group
  int64_t kh = 1, kw = 1;          // conv: filter
  const int8_t* weight = nullptr;  // [n][k] or [n][cin_g][kh][kw]
  const float* scale = nullptr;    // [1], [n] or [n][group_count]
  int64_t scale_count = 1;
  const int32_t* zero_point = nullptr;  // [n] or null
  const float* bias = nullptr;          // [n] or null
  const int32_t* bias_int32 = nullptr;  // [n] or null
  int bits = 8;
  int64_t group_size = 0;  // > 0: k is cut in groups of this many, each with its own scale
  float x_scale = 1.0f;
  int32_t x_zero_point = 0;
  bool dynamic = false;  // x_scale, x_zero_point are not known yet: prove the accumulator for every zero point
  std::string name;      // for messages
};

// Everything that follows from the header.
struct PackedView {
  PackedKind kind;
  int64_t n, k;  // k: products an output sums (linear: K; conv: cin_g * kh * kw)
  int64_t groups, cout_g, cin_g, kh, kw;
  // Groups of few channels lie side by side in one panel, `merged` of them, over all their input channels; zeros stand where a
  // column does not read its neighbours' channels. A set of merged groups is to a driver what a group is: cin_s inputs, cout_s
  // outputs.
  int64_t merged, sets, cin_s, cout_s;
  int64_t taps, kc;                 // kernel's taps and bytes a tap: (1, K), (kh*kw, cin_s), or folded (kh, kw*cin_g)
  bool fold_w;                      // conv: filter row and channels are one tap
  int64_t rest_bytes;               // of the joined form (below), rounded up to 4; 0: there is none
  int bits;                         // of the weight values; panels of 4 bits hold nibbles (not depthwise)
  int64_t group_size, group_count;  // 0, 1 when per channel
  float x_scale;
  int32_t x_zero_point;
  bool has_w_zero_point, dynamic;
  float y_bound;           // no input of the packed encoding gives a float output of larger magnitude
  int64_t n_group_padded;  // columns a set takes in the arrays below
  int64_t n_padded;        // sets * n_group_padded (depthwise: n rounded up to 64)
  int64_t panels_per_group;
  int64_t panel_stride;  // bytes from a full panel to the next
  // Depthwise: four taps of a channel make a dword, along y, or along x where the filter has one row. `rows_at_once` output rows
  // have weights over the same bundles of four input rows. A centred weight is the sum of `parts` bytes.
  int64_t bundles, bundle_taps;
  int rows_at_once, parts;
  int64_t total_bytes;

  // [n_padded], in panel order, zero in the padding
  const float* w_scale;  // the weight's own scale (group_count == 1)
  const float* scale;    // x_scale * w_scale
  const float* bias;
  const int32_t* bias_int32;
  const int32_t* colsum;      // sum_k (w - w_zero_point)
  const int32_t* correction;  // bias_int32 - x_zero_point * colsum
  const int32_t* w_zero_point;
  const int32_t* tap_sums;  // conv, several taps: [taps][n_padded], the sum of each tap's weights, zero points not subtracted
  // [group_count][n_padded], group_size > 0 only
  const float* group_scale;
  const int32_t* group_colsum;
  const int32_t* group_correction;
  const int32_t* zeros;  // [n_padded] of 0
  const uint8_t* panels;
  // Folded filters whose taps end within a group of 4: the panels once more, with each tap cut at its last whole group and what
  // is cut from all taps joined behind the last.
  const uint8_t* joined;

  // Columns of panel p of a set: 64, or what is left rounded up to 16.
  int panel_width(int64_t p) const {
    const int64_t left = cout_s - p * kPanel;
    return left >= kPanel ? kPanel : static_cast<int>((left + kPanelAlign - 1) / kPanelAlign * kPanelAlign);
  }
  int panel_columns(int64_t p) const {
    const int64_t left = cout_s - p * kPanel;
    return left >= kPanel ? kPanel : static_cast<int>(left);
  }
  int64_t k4() const { return taps * ((kc + 3) / 4); }                  // groups of 4 k in a panel
  int64_t panel_s8_bytes(int width) const { return k4() * width * 4; }  // as the kernels read it
  int64_t group_panel_bytes() const;                                    // all panels of one set of groups
  int64_t joined_k4() const { return taps * (kc / 4) + rest_bytes / 4; }
  const uint8_t* joined_panel(int64_t p) const { return joined + p * joined_k4() * kPanel * 4; }
  const uint8_t* panel(int64_t set, int64_t p) const { return panels + set * group_panel_bytes() + p * panel_stride; }
};

// Bytes `pack` writes. Throws Error for dimensions, scales or zero points that mean nothing.
int64_t packed_bytes(const PackSpec& spec);
// dst: packed_bytes(spec) bytes. Throws Error(overflow) naming the channel when an accumulator could leave int32.
void pack(const PackSpec& spec, uint8_t* dst);
// Throws Error(packed) unless the buffer is whole and of this build's layout.
PackedView view(const uint8_t* data, int64_t bytes);
// The canonical integers back: [n][k] in the order PackSpec::weight had.
void unpack(const PackedView& v, int8_t* weight);

// Position in its block of 64 of a depthwise channel c: lane-major fours become register-major, the order in which two in-lane
// unpacks leave channels (docs/packing.md).
inline int64_t depthwise_position(int64_t c) {
  const int64_t block = c / 64, r = c % 64, lane = r / 16, reg = r % 16 / 4, d = r % 4;
  return block * 64 + reg * 16 + lane * 4 + d;
}

}  // namespace qgemm
