// Transposed and three-dimensional convolution against the specification computed from canonical integers: any stride, padding,
// dilation and groups, every path, 1 and 2 threads.
#include "driver_case.h"
#include "ops/conv3d.h"
#include "ops/conv_transpose.h"

namespace qgemm {
namespace test {
namespace {

// What both kinds of layer draw at random beside their geometry.
struct Draw {
  Encoding8 input;
  OutputSpec out;
  bool dynamic;
  Side side;
};

Draw draw(Rng& rng, Layer& layer, int64_t n, int64_t k, bool zero_points) {
  Draw d{};
  PackSpec& spec = layer.spec;
  spec.bits = rng.chance(80) ? 8 : 4;
  layer.fill_values(rng, n, k, zero_points, rng.chance(70) ? n : 1);
  d.dynamic = rng.chance(30);
  d.input = {rng.pick({0.5f, 0.02f, 1.1920929e-7f}), static_cast<int32_t>(rng.pick<int64_t>({0, 128, 255, rng.between(0, 255)}))};
  spec.dynamic = d.dynamic;
  spec.x_scale = d.dynamic ? 1.0f : d.input.scale;
  spec.x_zero_point = d.dynamic ? 0 : d.input.zero_point;
  const double w_size = (spec.bits == 4 ? 8.0 : 128.0) * (layer.scale.empty() ? 1.0f : layer.scale[0]);
  d.out = any_output(rng, w_size * 255.0 * d.input.scale * std::sqrt(double(k) + 1), true);
  d.side = rng.chance(50) ? Side::start : Side::end;
  return d;
}

// Sums of a layer's outputs, and what they become.
struct Sums {
  std::vector<int64_t> acc;
  std::vector<uint8_t> bytes(const PackSpec& s, const Draw& d) const {
    const int64_t size = static_cast<int64_t>(out_size(d.out.type));
    std::vector<uint8_t> want(acc.size() * static_cast<size_t>(size));
    for (size_t i = 0; i < acc.size(); ++i) {
      const int64_t o = static_cast<int64_t>(i) % s.n;
      store_exact(d.out, acc[i] + (s.bias_int32 ? s.bias_int32[o] : 0), d.input.scale * s.scale[s.scale_count == 1 ? 0 : o],
                  s.bias ? s.bias[o] : 0.0f, want.data() + i * static_cast<size_t>(size));
    }
    return want;
  }
};

class TransposedCase {
 public:
  bool run(Rng& rng, const TransposedDims& d, const TransposedWindow& g) {
    const int64_t cout_g = d.n / d.groups, k = d.cin_g * d.kh * d.kw, oh = g.out_h(d), ow = g.out_w(d);
    TransposedSpec spec;
    spec.dims = d;
    Layer layer;
    const Draw draws = draw(rng, layer, d.n, k, rng.chance(20));
    spec.common = layer.spec;
    // The values of `layer` serve as [groups * cin_g][cout_g][kh][kw] too: they are as many.
    spec.weight = layer.weight.data();
    now_testing(
        "transposed x=%dx%dx%dx%d groups=%d cin=%d cout=%d kernel=%dx%d stride=%d,%d dilation=%d,%d cut=%d,%d,%d,%d extra=%d,%d "
        "bits=%d wzp=%d dynamic=%d out=%d",
        int(g.batch), int(g.h), int(g.w), int(g.c), int(d.groups), int(d.cin_g), int(cout_g), int(d.kh), int(d.kw),
        int(d.stride_h), int(d.stride_w), int(d.dilation_h), int(d.dilation_w), int(g.top), int(g.left), int(g.bottom),
        int(g.right), int(g.extra_h), int(g.extra_w), spec.common.bits, spec.common.zero_point != nullptr, draws.dynamic,
        int(draws.out.type));
    const int64_t bytes = packed_bytes(spec), x_bytes = g.batch * g.h * g.w * g.c;
    uint8_t* buffer = packed_.place<uint8_t>(static_cast<size_t>(bytes), Side::end);
    pack(spec, buffer);
    const TransposedView view = view_transposed(buffer, bytes);
    std::vector<int8_t> back(layer.weight.size());
    unpack(view, back.data());
    EXPECT_EQ(back, layer.weight) << current_case();
    uint8_t* x = x_.place<uint8_t>(static_cast<size_t>(x_bytes), draws.side);
    fill(rng, any_mood(rng), x, x_bytes);

    // By the definition: every input pixel adds its product with the filter to the outputs it reaches.
    Sums sums;
    sums.acc.assign(static_cast<size_t>(g.batch * oh * ow * d.n), 0);
    for (int64_t b = 0; b < g.batch; ++b)
      for (int64_t iy = 0; iy < g.h; ++iy)
        for (int64_t ix = 0; ix < g.w; ++ix)
          for (int64_t ky = 0; ky < d.kh; ++ky)
            for (int64_t kx = 0; kx < d.kw; ++kx) {
              const int64_t oy = iy * d.stride_h + ky * d.dilation_h - g.top, ox = ix * d.stride_w + kx * d.dilation_w - g.left;
              if (oy < 0 || oy >= oh || ox < 0 || ox >= ow) continue;
              for (int64_t c = 0; c < g.c; ++c) {
                const int64_t q = x[((b * g.h + iy) * g.w + ix) * g.c + c] - draws.input.zero_point, group = c / d.cin_g;
                for (int64_t o = 0; o < cout_g; ++o) {
                  const int64_t n = group * cout_g + o;
                  const int64_t w = layer.weight[static_cast<size_t>(((c * cout_g + o) * d.kh + ky) * d.kw + kx)] -
                                    (layer.spec.zero_point ? layer.spec.zero_point[n] : 0);
                  sums.acc[static_cast<size_t>(((b * oh + oy) * ow + ox) * d.n + n)] += q * w;
                }
              }
            }
    const int64_t size = static_cast<int64_t>(out_size(draws.out.type)), row = d.n * size;
    const int64_t stride = rng.chance(75) ? 0 : row + rng.pick<int64_t>({0, 1, 16, 64}) * size;  // of output pixels
    return same_everywhere(
        got_, sums.bytes(layer.spec, draws), g.batch * oh * ow, row, stride ? stride : row, draws.side,
        [&](void* p) { conv_transpose2d(view, g, x, p, draws.out, draws.dynamic ? &draws.input : nullptr, stride); });
  }

 private:
  Guarded x_{1 << 18}, packed_{1 << 21};
  Output got_{1 << 22};
};

TEST(ConvTranspose, EveryPathGivesTheDefinedBytes) {
  Rng rng(210);
  TransposedCase c;
  for (int i = 0; i < cases(15000);) {
    TransposedDims d;
    TransposedWindow g;
    const bool is_depthwise = rng.chance(25);
    d.groups = is_depthwise ? rng.pick<int64_t>({2, 16, 33, 65}) : rng.pick<int64_t>({1, 1, 1, 2, 3});
    d.cin_g = is_depthwise ? 1 : rng.pick<int64_t>({0, 1, 2, 3, 4, 5, 8, 16, 17, 23});
    d.n = d.groups * (is_depthwise ? 1 : rng.pick<int64_t>({0, 1, 2, 3, 15, 16, 17, 33, 64, 65}));
    d.kh = rng.pick<int64_t>({1, 2, 2, 3, 3, 4, 5});
    d.kw = rng.chance(80) ? d.kh : rng.between(1, 5);
    d.stride_h = rng.pick<int64_t>({1, 2, 2, 2, 3, 4});
    d.stride_w = rng.chance(80) ? d.stride_h : rng.between(1, 4);
    d.dilation_h = rng.chance(75) ? 1 : rng.between(2, 4);
    d.dilation_w = rng.chance(75) ? 1 : rng.between(2, 4);
    g.batch = rng.pick<int64_t>({0, 1, 1, 2});
    g.h = rng.between(1, 6);
    g.w = rng.between(1, 9);
    g.c = d.groups * d.cin_g;
    g.top = rng.between(0, 3);
    g.left = rng.between(0, 3);
    g.bottom = rng.between(0, 3);
    g.right = rng.between(0, 3);
    g.extra_h = rng.between(0, std::max(d.stride_h, d.dilation_h) - 1);
    g.extra_w = rng.between(0, std::max(d.stride_w, d.dilation_w) - 1);
    if (g.out_h(d) < 1 || g.out_w(d) < 1 || g.batch * g.out_h(d) * g.out_w(d) * d.n > 1 << 17 ||
        g.batch * g.h * g.w * g.c * d.n / d.groups * d.kh * d.kw > 200000)
      continue;
    ++i;
    if (!c.run(rng, d, g)) return;
  }
}

TEST(ConvTranspose, ThreadsShareTheWork) {
  Rng rng(211);
  TransposedCase c;
  for (int i = 0; i < cases(30); ++i) {
    TransposedDims d;
    TransposedWindow g;
    d.groups = i % 3 == 2 ? 70 : 1;
    d.cin_g = i % 3 == 2 ? 1 : rng.between(30, 40);
    d.n = i % 3 == 2 ? 70 : rng.between(60, 70);
    d.kh = d.kw = i % 2 ? 2 : 4;
    d.stride_h = d.stride_w = 2;
    g.batch = 1;
    g.h = g.w = rng.between(13, 16);
    g.c = d.groups * d.cin_g;
    g.top = g.left = g.bottom = g.right = i % 2 ? 0 : 1;
    if (!c.run(rng, d, g)) return;
  }
}

TEST(ConvTranspose, WhatMeansNothingIsRefused) {
  TransposedSpec spec;
  spec.dims = {2, 1, 3, 2, 2, 2, 2, 1, 1};
  const std::vector<int8_t> weight(2 * 3 * 4, 1);
  const float scale = 1;
  spec.common.scale = &scale;
  spec.weight = weight.data();
  std::vector<uint8_t> packed(static_cast<size_t>(packed_bytes(spec)));
  pack(spec, packed.data());
  const int64_t bytes = static_cast<int64_t>(packed.size());
  const TransposedView view = view_transposed(packed.data(), bytes);
  const auto refused = [&](auto change) {
    TransposedWindow g;
    g.batch = 1;
    g.h = g.w = g.c = 3;
    change(g);
    EXPECT_ANY_THROW(check(view, g));
  };
  refused([](TransposedWindow& g) { g.c = 4; });
  refused([](TransposedWindow& g) { g.top = -1; });
  refused([](TransposedWindow& g) { g.extra_w = 2; });
  refused([](TransposedWindow& g) { g.h = 0; });
  refused([](TransposedWindow& g) { g.top = g.bottom = 3; });
  EXPECT_ANY_THROW(view_transposed(packed.data(), bytes - 64));
  EXPECT_ANY_THROW(view_transposed(packed.data(), 10));
  packed[20] ^= 1;
  EXPECT_ANY_THROW(view_transposed(packed.data(), bytes));
  packed[20] ^= 1;
  // A part replaced by another weight of the same size: as many bytes, other dimensions.
  PackSpec other;
  other.kind = PackedKind::conv;
  other.n = 2;
  other.cin_g = 2;
  const std::vector<int8_t> small(4, 1);
  other.weight = small.data();
  other.scale = &scale;
  std::vector<uint8_t> part(static_cast<size_t>(packed_bytes(other)));
  pack(other, part.data());
  std::memcpy(packed.data() + 256, part.data(), part.size());
  EXPECT_ANY_THROW(each_remainder(view_transposed(packed.data(), bytes), [](int64_t, int64_t, const PackedView&) {}));
  spec.dims.stride_h = 70000;
  EXPECT_ANY_THROW(packed_bytes(spec));
}

TEST(Conv3d, EveryPathGivesTheDefinedBytes) {
  Rng rng(212);
  Guarded x_memory(1 << 18), packed(1 << 20);
  Output got(1 << 20);
  for (int i = 0; i < cases(12000);) {
    Window3 g;
    g.batch = rng.pick<int64_t>({0, 1, 1, 2});
    for (int a = 0; a < 3; ++a) {
      g.in[a] = rng.between(1, 6);
      g.kernel[a] = rng.pick<int64_t>({1, 2, 3, 3});
      g.stride[a] = rng.between(1, 2);
      g.dilation[a] = rng.chance(75) ? 1 : 2;
      g.before[a] = rng.between(0, 2);
      g.after[a] = rng.between(0, 2);
    }
    const bool is_depthwise = rng.chance(25), zero_points = rng.chance(20);
    Layer layer;
    PackSpec& spec = layer.spec;
    spec.groups = is_depthwise ? rng.pick<int64_t>({2, 16, 33, 65}) : rng.pick<int64_t>({1, 1, 1, 2, 3});
    spec.cin_g = is_depthwise ? 1 : rng.pick<int64_t>({0, 1, 2, 3, 4, 16, 17});
    const int64_t cout = is_depthwise ? 1 : rng.pick<int64_t>({0, 1, 3, 16, 17, 33, 65}), n = spec.groups * cout;
    spec.kind = is_depthwise && !zero_points ? PackedKind::depthwise : PackedKind::conv;
    spec.kh = g.kernel[0] * g.kernel[1];
    spec.kw = g.kernel[2];
    g.c = spec.groups * spec.cin_g;
    const int64_t k = spec.cin_g * spec.kh * spec.kw, pixels = g.batch * g.out(0) * g.out(1) * g.out(2);
    if (pixels * n * k > 200000 || pixels * n > 1 << 17 || g.batch * g.in[0] * g.in[1] * g.in[2] * g.c > 1 << 18) continue;
    ++i;
    const Draw d = draw(rng, layer, n, k, zero_points);
    now_testing(
        "conv3d x=%dx%dx%dx%dx%d kernel=%dx%dx%d stride=%d,%d,%d dilation=%d,%d,%d groups=%d cin=%d cout=%d bits=%d wzp=%d",
        int(g.batch), int(g.in[0]), int(g.in[1]), int(g.in[2]), int(g.c), int(g.kernel[0]), int(g.kernel[1]), int(g.kernel[2]),
        int(g.stride[0]), int(g.stride[1]), int(g.stride[2]), int(g.dilation[0]), int(g.dilation[1]), int(g.dilation[2]),
        int(spec.groups), int(spec.cin_g), int(cout), spec.bits, zero_points);
    const int64_t x_bytes = g.batch * g.in[0] * g.in[1] * g.in[2] * g.c;
    uint8_t* x = x_memory.place<uint8_t>(static_cast<size_t>(x_bytes), d.side);
    fill(rng, any_mood(rng), x, x_bytes);
    const PackedView view = layer.pack_into(packed);
    Sums sums;
    for (int64_t b = 0; b < g.batch; ++b)
      for (int64_t o = 0; o < g.out(0) * g.out(1) * g.out(2); ++o)
        for (int64_t c = 0; c < n; ++c) {
          const int64_t at[3] = {o / g.out(2) / g.out(1), o / g.out(2) % g.out(1), o % g.out(2)};
          int64_t acc = 0;
          for (int64_t kk = 0; kk < k; ++kk) {
            const int64_t ci = kk / spec.kh / spec.kw, tap = kk % (spec.kh * spec.kw);
            const int64_t t[3] = {tap / g.kernel[2] / g.kernel[1], tap / g.kernel[2] % g.kernel[1], tap % g.kernel[2]};
            int64_t pos = b;
            bool inside = true;
            for (int a = 0; a < 3; ++a) {
              const int64_t p = at[a] * g.stride[a] - g.before[a] + t[a] * g.dilation[a];
              inside = inside && p >= 0 && p < g.in[a];
              pos = pos * g.in[a] + p;
            }
            if (!inside) continue;
            acc += (x[pos * g.c + c / cout * spec.cin_g + ci] - d.input.zero_point) *
                   (layer.weight[static_cast<size_t>(c * k + kk)] - (spec.zero_point ? spec.zero_point[c] : 0));
          }
          sums.acc.push_back(acc);
        }
    const int64_t row = n * static_cast<int64_t>(out_size(d.out.type));
    if (!same_everywhere(got, sums.bytes(spec, d), pixels, row, row, d.side,
                         [&](void* p) { conv3d(view, g, x, p, d.out, d.dynamic ? &d.input : nullptr); }))
      return;
  }
}

}  // namespace
}  // namespace test
}  // namespace qgemm
