// The convolution drivers against the specification computed from canonical integers: geometry, groups, depthwise, floats, every
// path, 1 and 2 threads, outputs that are slices of wider images.
#include "ops/conv.h"

#include <algorithm>

#include "driver_case.h"
#include "ops/conv_f32.h"
#include "ops/conv_job.h"
#include "ops/product.h"

namespace qgemm {
namespace test {
namespace {

class ConvCase {
 public:
  ConvCase& batch(int64_t v) { return g_.batch = v, *this; }
  ConvCase& image(int64_t h, int64_t w) { return g_.h = h, g_.w = w, *this; }
  ConvCase& channels(int64_t groups, int64_t in_per_group, int64_t out_per_group) {
    return groups_ = groups, cin_ = in_per_group, cout_ = out_per_group, *this;
  }
  ConvCase& kernel(int64_t h, int64_t w) { return g_.kh = h, g_.kw = w, *this; }
  ConvCase& stride(int64_t h, int64_t w) { return g_.stride_h = h, g_.stride_w = w, *this; }
  ConvCase& dilation(int64_t h, int64_t w) { return g_.dilation_h = h, g_.dilation_w = w, *this; }
  ConvCase& padding(int64_t top, int64_t left, int64_t bottom, int64_t right) {
    return g_.top = top, g_.left = left, g_.bottom = bottom, g_.right = right, *this;
  }
  ConvCase& bits(int v) { return bits_ = v, *this; }
  ConvCase& zero_points(bool v) { return zero_points_ = v, *this; }
  ConvCase& dynamic(bool v) { return dynamic_ = v, *this; }  // the input's encoding comes with the call
  int64_t macs() const { return g_.batch * g_.out_h() * g_.out_w() * groups_ * cout_ * cin_ * g_.kh * g_.kw; }

  int inside() const { return inside_; }  // runs in which products of padding were left out
  int joined() const { return joined_; }  // runs of weights in which the ends of taps are joined

  bool run(Rng& rng) {
    g_.c = groups_ * cin_;
    const int64_t n = groups_ * cout_, k = cin_ * g_.kh * g_.kw, oh = g_.out_h(), ow = g_.out_w();
    Layer layer;
    PackSpec& spec = layer.spec;
    spec.kind = groups_ > 1 && cin_ == 1 && cout_ == 1 ? PackedKind::depthwise : PackedKind::conv;
    spec.groups = groups_;
    spec.cin_g = cin_;
    spec.kh = g_.kh;
    spec.kw = g_.kw;
    spec.bits = bits_;
    layer.fill_values(rng, n, k, zero_points_, rng.chance(70) ? n : 1);
    const Encoding8 input{rng.pick({0.5f, 0.02f, 1.1920929e-7f}),
                          static_cast<int32_t>(rng.pick<int64_t>({0, 128, 255, rng.between(0, 255)}))};
    spec.dynamic = dynamic_;
    spec.x_scale = dynamic_ ? 1.0f : input.scale;
    spec.x_zero_point = dynamic_ ? 0 : input.zero_point;

    const Side side = rng.chance(50) ? Side::start : Side::end;
    const double w_size = (bits_ == 4 ? 8.0 : 128.0) * (layer.scale.empty() ? 1.0f : layer.scale[0]);
    const OutputSpec out = any_output(rng, w_size * 255.0 * input.scale * std::sqrt(double(k) + 1), true);
    const int64_t size = static_cast<int64_t>(out_size(out.type)), rows = g_.batch * oh * ow;
    const int64_t stride = rng.chance(75) ? 0 : (n + rng.pick<int64_t>({0, 1, 16, 64})) * size;  // of output pixels
    now_testing(
        "conv x=%dx%dx%dx%d groups=%d cin=%d cout=%d kernel=%dx%d stride=%d,%d dilation=%d,%d padding=%d,%d,%d,%d bits=%d wzp=%d "
        "dynamic=%d out=%d stride=%d",
        int(g_.batch), int(g_.h), int(g_.w), int(g_.c), int(groups_), int(cin_), int(cout_), int(g_.kh), int(g_.kw),
        int(g_.stride_h), int(g_.stride_w), int(g_.dilation_h), int(g_.dilation_w), int(g_.top), int(g_.left), int(g_.bottom),
        int(g_.right), bits_, zero_points_, dynamic_, int(out.type), int(stride));
    const int64_t x_bytes = g_.batch * g_.h * g_.w * g_.c;
    uint8_t* x = x_.place<uint8_t>(static_cast<size_t>(x_bytes), side);
    fill(rng, any_mood(rng), x, x_bytes);
    const PackedView view = layer.pack_into(packed_);
    joined_ += view.rest_bytes > 0;
    inside_ += view.kind == PackedKind::conv && leaves_out_padding(view, g_);
    std::vector<int8_t> back(layer.weight.size());
    unpack(view, back.data());
    EXPECT_EQ(back, layer.weight) << current_case();

    std::vector<uint8_t> want(static_cast<size_t>(rows * n * size));
    uint8_t* c = want.data();
    for (int64_t b = 0; b < g_.batch; ++b)
      for (int64_t oy = 0; oy < oh; ++oy)
        for (int64_t ox = 0; ox < ow; ++ox)
          for (int64_t o = 0; o < n; ++o, c += size) {
            const float w_scale = spec.scale[spec.scale_count == 1 ? 0 : o];
            store_exact(out, accumulate(layer, x, input.zero_point, b, oy, ox, o), input.scale * w_scale,
                        spec.bias ? spec.bias[o] : 0.0f, c);
          }
    return same_everywhere(got_, want, rows, n * size, stride ? stride : n * size, side,
                           [&](void* p) { conv2d(view, g_, x, p, out, dynamic_ ? &input : nullptr, nullptr, stride); });
  }

 private:
  int64_t accumulate(const Layer& layer, const uint8_t* x, int64_t zx, int64_t b, int64_t oy, int64_t ox, int64_t o) const {
    const PackSpec& s = layer.spec;
    const int64_t zw = s.zero_point ? s.zero_point[o] : 0, first = o / cout_ * cin_;
    int64_t acc = s.bias_int32 ? s.bias_int32[o] : 0;
    for (int64_t ci = 0; ci < cin_; ++ci)
      for (int64_t ky = 0; ky < g_.kh; ++ky)
        for (int64_t kx = 0; kx < g_.kw; ++kx) {
          const int64_t iy = oy * g_.stride_h - g_.top + ky * g_.dilation_h, ix = ox * g_.stride_w - g_.left + kx * g_.dilation_w;
          if (iy < 0 || iy >= g_.h || ix < 0 || ix >= g_.w) continue;  // padding is real zero
          const int64_t q = x[((b * g_.h + iy) * g_.w + ix) * g_.c + first + ci];
          acc += (q - zx) * (s.weight[((o * cin_ + ci) * g_.kh + ky) * g_.kw + kx] - zw);
        }
    return acc;
  }

  Window g_;
  int64_t groups_ = 1, cin_ = 1, cout_ = 1;
  int bits_ = 8, inside_ = 0, joined_ = 0;
  bool zero_points_ = false, dynamic_ = false;
  Guarded x_{1 << 20}, packed_{1 << 23};
  Output got_{1 << 22};
};

void any_geometry(ConvCase& c, Rng& rng, int64_t most) {
  c.batch(rng.pick<int64_t>({0, 1, 1, 2, 3}));
  c.image(rng.between(1, most), rng.between(1, most));
  const int64_t k = rng.pick<int64_t>({1, 1, 2, 2, 3, 3, 3, 3, 5, 7});
  c.kernel(rng.chance(80) ? k : 1, k)
      .stride(rng.between(1, 3), rng.between(1, 3))
      .dilation(rng.chance(75) ? 1 : 2, rng.chance(75) ? 1 : 2);
  c.padding(rng.between(0, 3), rng.between(0, 3), rng.between(0, 3), rng.between(0, 3));
}

TEST(Conv, EveryPathGivesTheDefinedBytes) {
  Rng rng(200);
  ConvCase c;
  for (int i = 0; i < cases(50000);) {
    any_geometry(c, rng, 7);
    const int64_t groups = rng.pick<int64_t>({1, 1, 1, 2, 3, 4, 6, 16});
    // Input channels around a group of four and around the limit of filter-row folding; output channels around every panel width.
    c.channels(groups, rng.pick<int64_t>({0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 23}),
               rng.pick<int64_t>({0, 1, 2, 3, 15, 16, 17, 31, 33, 48, 63, 65}));
    c.bits(rng.chance(80) ? 8 : 4).zero_points(rng.chance(20)).dynamic(rng.chance(30));
    if (c.macs() > 300000) continue;
    ++i;
    if (!c.run(rng)) return;
  }
}

TEST(Conv, DepthwiseGivesTheDefinedBytes) {
  Rng rng(201);
  ConvCase c;
  for (int i = 0; i < cases(30000); ++i) {
    any_geometry(c, rng, 11);
    c.channels(rng.pick<int64_t>({2, 3, 15, 16, 17, 31, 32, 33, 63, 64, 65, 97, 128, 130}), 1, 1);
    c.bits(rng.chance(80) ? 8 : 4).zero_points(rng.chance(20)).dynamic(rng.chance(30));
    if (!c.run(rng)) return;
  }
}

// Convolutions of one dimension: long kernels, long strides, far apart.
TEST(Conv, LinesGiveTheDefinedBytes) {
  Rng rng(204);
  ConvCase c;
  for (int i = 0; i < cases(10000);) {
    const bool is_depthwise = rng.chance(50);
    c.batch(rng.pick<int64_t>({0, 1, 1, 2}))
        .image(1, rng.between(1, 90))
        .kernel(1, rng.pick<int64_t>({1, 2, 3, 5, 7, 9, 15, 31}))
        .stride(1, rng.between(1, 5))
        .dilation(1, rng.chance(70) ? 1 : rng.between(2, 5))
        .padding(0, rng.between(0, 30), 0, rng.between(0, 30));
    if (is_depthwise)
      c.channels(rng.pick<int64_t>({2, 15, 16, 31, 64, 65, 130}), 1, 1);
    else
      c.channels(rng.pick<int64_t>({1, 1, 1, 2, 4}), rng.pick<int64_t>({1, 2, 3, 4, 8, 16, 17}),
                 rng.pick<int64_t>({1, 3, 16, 17, 33, 65}));
    c.bits(rng.chance(80) ? 8 : 4).zero_points(rng.chance(20)).dynamic(rng.chance(30));
    if (c.macs() > 100000) continue;
    ++i;
    if (!c.run(rng)) return;
  }
}

TEST(ConvOfFloats, EveryPathGivesTheDefinedBytes) {
  Rng rng(205);
  Guarded x_memory(1 << 20), panels(1 << 20), biases(1 << 14);
  Output got(1 << 20);
  for (int i = 0; i < cases(10000);) {
    Window g;
    g.batch = rng.pick<int64_t>({0, 1, 1, 2});
    g.h = rng.between(1, 7);
    g.w = rng.between(1, 9);
    g.kh = rng.between(1, 4);
    g.kw = rng.between(1, 5);
    g.stride_h = rng.between(1, 3);
    g.stride_w = rng.between(1, 3);
    g.dilation_h = rng.chance(75) ? 1 : 2;
    g.dilation_w = rng.chance(75) ? 1 : 2;
    g.top = rng.between(0, 2);
    g.left = rng.between(0, 3);
    g.bottom = rng.between(0, 2);
    g.right = rng.between(0, 3);
    FloatWeight w;
    w.groups = rng.pick<int64_t>({1, 1, 1, 2, 3, 33});
    const int64_t cin = rng.pick<int64_t>({1, 2, 3, 4, 7, 16}), cout = rng.pick<int64_t>({1, 2, 15, 16, 17, 31, 32, 33, 65});
    const int64_t oh = g.out_h(), ow = g.out_w(), taps = g.kh * g.kw, rows = g.batch * oh * ow;
    g.c = w.groups * cin;
    w.n = w.groups * cout;
    const bool depthwise = w.depthwise(g);
    const int64_t k = taps * cin, of_group = FloatPanels::floats(k, cout), packed = depthwise ? taps * g.c : w.groups * of_group;
    if (rows * w.n * k > 100000 || packed > 1 << 18) continue;
    ++i;
    const Side side = rng.chance(50) ? Side::start : Side::end;
    const int64_t x_count = g.batch * g.h * g.w * g.c;
    float *x = x_memory.place<float>(static_cast<size_t>(x_count), side), *bias = biases.place<float>(size_t(w.n), Side::end),
          *panel = panels.place<float>(static_cast<size_t>(packed), Side::end);
    for (int64_t j = 0; j < x_count; ++j) x[j] = rng.uniform(-2, 2);
    for (int64_t j = 0; j < w.n; ++j) bias[j] = rng.uniform(-2, 2);
    std::vector<float> weights(static_cast<size_t>(w.n * k));  // [groups][taps * cin][cout]
    for (float& v : weights) v = rng.uniform(-1, 1);
    const auto weight = [&](int64_t o, int64_t i) { return weights[static_cast<size_t>((o / cout * k + i) * cout + o % cout)]; };
    for (int64_t group = 0; group < w.groups && !depthwise; ++group)
      pack_floats(weights.data() + group * k * cout, cout, false, k, cout, panel + group * of_group);
    for (int64_t j = 0; j < packed && depthwise; ++j) panel[j] = weight(j % g.c, j / g.c);
    w.panels = panel;
    w.bias = bias;
    const float lo = rng.chance(50) ? -INFINITY : 0.0f, hi = rng.chance(50) ? INFINITY : 1.5f;
    OutputSpec out;
    out.f_lo = lo;
    out.f_hi = hi;
    now_testing("conv2d_f32 x=%dx%dx%dx%d groups=%d cin=%d cout=%d kernel=%dx%d stride=%d,%d dilation=%d,%d padding=%d,%d,%d,%d",
                int(g.batch), int(g.h), int(g.w), int(g.c), int(w.groups), int(cin), int(cout), int(g.kh), int(g.kw),
                int(g.stride_h), int(g.stride_w), int(g.dilation_h), int(g.dilation_w), int(g.top), int(g.left), int(g.bottom),
                int(g.right));
    std::vector<uint8_t> want(static_cast<size_t>(rows * w.n * 4));
    uint8_t* c = want.data();
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t o = 0; o < w.n; ++o, c += 4) {
        float y = 0.0f, block = 0.0f;
        for (int64_t j = 0; j < k; ++j) {
          const int64_t tap = j / cin, iy = r / ow % oh * g.stride_h - g.top + tap / g.kw * g.dilation_h;
          const int64_t ix = r % ow * g.stride_w - g.left + tap % g.kw * g.dilation_w;
          const bool inside = iy >= 0 && iy < g.h && ix >= 0 && ix < g.w;
          const int64_t at = ((r / (oh * ow) * g.h + iy) * g.w + ix) * g.c + o / cout * cin + j % cin;
          block = std::fmaf(inside ? x[at] : 0.0f, weight(o, j), block);
          if ((j + 1) % kProductBlock != 0 && j + 1 < k) continue;
          y = j < kProductBlock ? block : y + block;
          block = 0.0f;
        }
        y += bias[o];
        y = std::min(std::max(y, lo), hi);
        std::memcpy(c, &y, 4);
      }
    if (!same_everywhere(got, want, rows, w.n * 4, w.n * 4, side, [&](void* p) { conv2d_f32(w, g, x, p, w.n * 4, out); })) return;
  }
}

TEST(Conv, ThreadsShareTheWork) {
  Rng rng(202);
  ConvCase c;
  for (int i = 0; i < cases(80); ++i) {  // sizes at which two threads take part
    c.batch(rng.between(1, 2))
        .image(rng.between(14, 17), rng.between(14, 17))
        .kernel(3, 3)
        .stride(1, 1)
        .dilation(1, 1)
        .padding(1, 1, 1, 1);
    if (i % 4 == 3) c.image(1, rng.between(300, 400)).kernel(1, 5).channels(1, rng.between(3, 16), rng.between(30, 70));
    if (i % 4 == 0) c.channels(rng.between(300, 330), 1, 1);
    if (i % 4 == 1) c.channels(1, rng.chance(50) ? rng.between(16, 30) : rng.pick<int64_t>({20, 24, 28}), rng.between(60, 70));
    if (i % 4 == 2) c.channels(4, rng.between(10, 17), rng.between(15, 20));
    c.bits(rng.chance(70) ? 8 : 4).zero_points(rng.chance(20)).dynamic(rng.chance(30));
    if (!c.run(rng)) return;
  }
}

// Padded images in which so much is multiplied that the products of padding are left out: borders of several lines, on one side
// only, spread by dilations and strides, several images and groups, and lines that threads share unevenly.
TEST(Conv, ProductsOfPaddingAreLeftOut) {
  Rng rng(207);
  ConvCase c;
  int runs = 0;
  while (runs < cases(2000)) {
    any_geometry(c, rng, rng.chance(80) ? 9 : 20);
    c.image(rng.between(3, 14), rng.between(3, 14)).kernel(rng.between(1, 5), rng.between(1, 5));
    if (rng.chance(70)) c.kernel(3, 3).padding(1, 1, 1, 1).stride(1, 1);
    const bool grouped = rng.chance(30);
    c.channels(grouped ? rng.between(2, 4) : 1,
               grouped ? rng.pick<int64_t>({4, 8, 20, 32}) : rng.pick<int64_t>({20, 24, 36, 52, 64}),
               rng.pick<int64_t>({8, 16, 17, 33, 48, 65, 130}));
    c.bits(rng.chance(80) ? 8 : 4).zero_points(rng.chance(5)).dynamic(rng.chance(30));
    if (c.macs() > 4000000) continue;
    ++runs;
    if (!c.run(rng)) return;
  }
  EXPECT_GT(c.inside(), runs / 4);
}

// Few channels on lines long enough that they are read from padded copies: with and without padding, blocks of lines that begin
// anywhere in a batch, strides beyond the filter.
TEST(Conv, FilterRowsOfFewChannelsReadPaddedLines) {
  Rng rng(208);
  ConvCase c;
  int runs = 0;
  while (runs < cases(2000)) {
    c.batch(rng.pick<int64_t>({1, 1, 2, 3})).image(rng.between(1, 9), rng.between(16, 70));
    c.kernel(rng.between(1, 5), rng.between(2, 5))
        .stride(rng.between(1, rng.chance(80) ? 3 : 9), rng.between(1, 3))
        .dilation(1, 1);
    c.padding(rng.between(0, 4), rng.between(0, 4), rng.between(0, 4), rng.between(0, 4));
    c.channels(1, rng.between(1, 16), rng.pick<int64_t>({1, 8, 16, 17, 24, 32, 48, 65, 130}));
    c.bits(rng.chance(90) ? 8 : 4).zero_points(rng.chance(5)).dynamic(rng.chance(30));
    if (c.macs() > 2000000) continue;
    ++runs;
    if (!c.run(rng)) return;
  }
  EXPECT_GT(c.joined(), runs / 8);
}

TEST(Conv, FewProductsWithPixelsInLanes) {
  Rng rng(211);
  ConvCase c;
  for (int runs = 0; runs < cases(2000);) {
    const int64_t kernel = rng.pick<int64_t>({3, 3, 3, 5});
    c.batch(rng.pick<int64_t>({1, 1, 2, 3}))
        .image(rng.chance(95) ? rng.between(1, 12) : rng.between(60, 140), rng.between(8, 80));
    c.kernel(kernel, kernel).stride(rng.between(1, 3), rng.between(1, 3)).dilation(1, 1);
    c.padding(rng.between(0, 4), rng.between(0, 20), rng.between(0, 4), rng.between(0, 20));
    c.channels(1, kernel == 5 ? 1 : rng.between(2, 3), rng.pick<int64_t>({1, 8, 16, 24, 31, 32, 40, 56, 64, rng.between(1, 64)}));
    c.bits(8).zero_points(false).dynamic(rng.chance(20));
    if (c.macs() > 2000000) continue;
    ++runs;
    if (!c.run(rng)) return;
  }
}

TEST(Conv, TheFirstLayerOfANetwork) {
  Rng rng(203);
  ConvCase c;
  for (int i = 0; i < 6; ++i)
    if (!c.batch(1)
             .image(33, 61)
             .channels(1, 3, i % 3 == 0 ? 32 : 64)
             .kernel(i < 3 ? 3 : 7, i < 3 ? 3 : 7)
             .stride(2, 2)
             .padding(1, 1, 1, 1)
             .run(rng))
      return;
}

}  // namespace
}  // namespace test
}  // namespace qgemm
