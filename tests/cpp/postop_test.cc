// What follows a product, applied by the drivers strip by strip, against the same steps over whole tensors: every path, 1 and 2
// threads, outputs that are slices of wider rows.
#include "ops/postop.h"

#include "driver_case.h"
#include "ops/conv.h"

namespace qgemm {
namespace test {
namespace {

OutputSpec u8_output(Rng& rng, double size) {
  OutputSpec out = any_output(rng, size, false);
  out.type = OutType::u8;
  return out;
}

// A random post op over [rows][n] whose operands lie in guarded memory, and its definition.
class PostCase {
 public:
  const PostOp& make(Rng& rng, int64_t rows, int64_t n, double size) {
    post_ = PostOp();
    rows_ = rows;
    n_ = n;
    if (rng.chance(75)) {
      post_.residual_stride = n + rng.pick<int64_t>({0, 0, 1, 40});
      const int64_t bytes = rows > 0 ? (rows - 1) * post_.residual_stride + n : 0;
      uint8_t* r = residual_.place<uint8_t>(static_cast<size_t>(bytes), rng.chance(50) ? Side::start : Side::end);
      fill(rng, any_mood(rng), r, bytes);
      post_.residual = r;
      post_.residual_encoding = {static_cast<float>(size / 300) * rng.uniform(0.2f, 2),
                                 static_cast<int32_t>(rng.between(0, 255))};
      post_.sum = u8_output(rng, 2 * size);
    }
    if (!post_.residual || rng.chance(40)) {
      uint8_t* t = table_.place<uint8_t>(256, rng.chance(50) ? Side::start : Side::end);
      fill(rng, Mood::uniform, t, 256);
      post_.table = t;
    }
    return post_;
  }

  // `product`: the dense output without a post op.
  std::vector<uint8_t> defined(const std::vector<uint8_t>& product, const OutputSpec& spec) const {
    std::vector<uint8_t> want(product);
    for (int64_t r = 0; r < rows_; ++r)
      for (int64_t c = 0; c < n_; ++c) {
        uint8_t& q = want[static_cast<size_t>(r * n_ + c)];
        if (post_.residual) {
          const float x = spec.scale * static_cast<float>(q - spec.zero_point);
          const float y = post_.residual_encoding.scale *
                          static_cast<float>(post_.residual[r * post_.residual_stride + c] - post_.residual_encoding.zero_point);
          store_float(post_.sum, x + y, &q);
        }
        if (post_.table) q = post_.table[q];
      }
    return want;
  }

 private:
  PostOp post_;
  int64_t rows_ = 0, n_ = 0;
  Guarded residual_{1 << 18}, table_{256};
};

TEST(PostOp, AfterAConvolution) {
  Rng rng(501);
  Guarded x_memory(1 << 18), packed(1 << 18);
  Output got(1 << 18);
  PostCase posts;
  for (int i = 0; i < cases(12000);) {
    Window g;
    g.batch = rng.pick<int64_t>({0, 1, 1, 2});
    g.h = rng.between(1, 9);
    g.w = rng.between(1, 13);
    g.kh = rng.pick<int64_t>({1, 1, 2, 3});
    g.kw = rng.chance(80) ? g.kh : 3;
    g.stride_h = rng.between(1, 2);
    g.stride_w = rng.between(1, 2);
    g.top = rng.between(0, 1);
    g.left = rng.between(0, 1);
    g.bottom = rng.between(0, 1);
    g.right = rng.between(0, 1);
    const bool is_depthwise = rng.chance(35);
    Layer layer;
    PackSpec& spec = layer.spec;
    spec.kind = is_depthwise ? PackedKind::depthwise : PackedKind::conv;
    spec.groups = is_depthwise ? rng.pick<int64_t>({2, 16, 31, 64, 65, 130}) : rng.pick<int64_t>({1, 1, 1, 2, 3});
    spec.cin_g = is_depthwise ? 1 : rng.pick<int64_t>({1, 3, 4, 16, 17});
    const int64_t cout = is_depthwise ? 1 : rng.pick<int64_t>({1, 3, 16, 31, 33, 64, 65});
    g.c = spec.groups * spec.cin_g;
    spec.kh = g.kh;
    spec.kw = g.kw;
    spec.bits = rng.chance(85) ? 8 : 4;
    const int64_t n = spec.groups * cout, k = spec.cin_g * g.kh * g.kw, rows = g.batch * g.out_h() * g.out_w();
    if (rows * n * k > 200000) continue;
    ++i;
    layer.fill_values(rng, n, k, rng.chance(20), rng.chance(70) ? n : 1);
    spec.x_scale = 0.05f;
    spec.x_zero_point = static_cast<int32_t>(rng.between(0, 255));
    const double size = 128.0 * layer.scale[0] * 255.0 * spec.x_scale * std::sqrt(double(k));
    const OutputSpec out = u8_output(rng, size);
    const int64_t x_bytes = g.batch * g.h * g.w * g.c, stride = n + rng.pick<int64_t>({0, 0, 1, 64});
    uint8_t* x = x_memory.place<uint8_t>(static_cast<size_t>(x_bytes), Side::end);
    fill(rng, any_mood(rng), x, x_bytes);
    const PackedView view = layer.pack_into(packed);
    const PostOp& post = posts.make(rng, rows, n, size);
    now_testing("conv + post x=%dx%dx%dx%d groups=%d cin=%d cout=%d kernel=%dx%d residual=%d table=%d stride=%d", int(g.batch),
                int(g.h), int(g.w), int(g.c), int(spec.groups), int(spec.cin_g), int(cout), int(g.kh), int(g.kw),
                post.residual != nullptr, post.table != nullptr, int(stride));
    std::vector<uint8_t> product(static_cast<size_t>(rows * n));
    {
      Forced forced(Isa::ref);
      conv2d(view, g, x, product.data(), out);
    }
    if (!same_everywhere(got, posts.defined(product, out), rows, n, stride, Side::end, [&](void* c) {
          conv2d(view, g, x, c, out, nullptr, &post, rng.chance(50) || stride != n ? stride : 0);
        }))
      return;
  }
}

TEST(PostOp, AfterALinearLayer) {
  Rng rng(502);
  Guarded x_memory(1 << 16), packed(1 << 18);
  Output got(1 << 18);
  PostCase posts;
  for (int i = 0; i < cases(6000); ++i) {
    const int64_t m = rng.pick<int64_t>({0, 1, 5, 6, 7, 63, 64, 65, 66, 67, 130}),
                  n = rng.pick<int64_t>({1, 15, 16, 33, 48, 64, 65, 130}), k = rng.pick<int64_t>({1, 4, 7, 32, 65});
    Layer layer;
    PackSpec& spec = layer.spec;
    spec.kind = PackedKind::linear;
    spec.k = k;
    spec.bits = rng.chance(70) ? 8 : 4;
    spec.group_size = rng.chance(20) ? 16 : 0;
    layer.fill_values(rng, n, k, spec.group_size == 0 && rng.chance(20), spec.group_size ? n * ((k + 15) / 16) : n);
    spec.x_scale = 0.05f;
    spec.x_zero_point = static_cast<int32_t>(rng.between(0, 255));
    const double size = 128.0 * layer.scale[0] * 255.0 * spec.x_scale * std::sqrt(double(k));
    const OutputSpec out = u8_output(rng, size);
    uint8_t* x = x_memory.place<uint8_t>(static_cast<size_t>(m * k), Side::end);
    fill(rng, any_mood(rng), x, m * k);
    const PackedView view = layer.pack_into(packed);
    const PostOp& post = posts.make(rng, m, n, size);
    now_testing("linear + post m=%d n=%d k=%d group=%d residual=%d table=%d", int(m), int(n), int(k), int(spec.group_size),
                post.residual != nullptr, post.table != nullptr);
    std::vector<uint8_t> product(static_cast<size_t>(m * n));
    {
      Forced forced(Isa::ref);
      linear(view, x, m, k, product.data(), n, out);
    }
    if (!same_everywhere(got, posts.defined(product, out), m, n, n + 3, Side::end,
                         [&](void* c) { linear(view, x, m, k, c, n + 3, out, {}, &post); }))
      return;
  }
}

TEST(PostOp, WhatMeansNothingIsRefused) {
  PostOp post;
  OutputSpec floats, bytes;
  bytes.type = OutType::u8;
  const uint8_t some[256] = {};
  EXPECT_NO_THROW(post.check("conv2d", floats));  // nothing follows
  post.table = some;
  EXPECT_NO_THROW(post.check("conv2d", bytes));
  EXPECT_ANY_THROW(post.check("conv2d", floats));
  post.residual = some;
  EXPECT_ANY_THROW(post.check("conv2d", bytes));  // the sum is not u8
  post.sum.type = OutType::u8;
  EXPECT_NO_THROW(post.check("conv2d", bytes));
  post.residual_encoding.scale = -1;
  EXPECT_ANY_THROW(post.check("conv2d", bytes));
}

}  // namespace
}  // namespace test
}  // namespace qgemm
