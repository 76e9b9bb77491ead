// The linear driver against the specification computed from canonical integers: any shape, every path, 1 and 2 threads.
#include <omp.h>

#include "cpu/error.h"
#include "driver_case.h"
#include "ops/quantize.h"
#include "ops/threads.h"

namespace qgemm {
namespace test {
namespace {

class LinearCase {
 public:
  LinearCase& m(int64_t v) { return m_ = v, *this; }
  LinearCase& n(int64_t v) { return n_ = v, *this; }
  LinearCase& k(int64_t v) { return k_ = v, *this; }
  LinearCase& bits(int v) { return bits_ = v, *this; }
  LinearCase& group_size(int64_t v) { return group_size_ = v, *this; }
  LinearCase& zero_points(bool v) { return zero_points_ = v, *this; }
  LinearCase& per_row(bool v) { return per_row_ = v, *this; }  // inputs quantized row by row

  bool run(Rng& rng) {
    Layer layer;
    PackSpec& spec = layer.spec;
    spec.kind = PackedKind::linear;
    spec.k = k_;
    spec.bits = bits_;
    spec.group_size = group_size_;
    const int64_t groups = group_size_ > 0 ? (k_ + group_size_ - 1) / group_size_ : 1;
    layer.fill_values(rng, n_, k_, zero_points_, group_size_ > 0 ? n_ * groups : rng.chance(70) ? n_ : 1);
    spec.dynamic = per_row_;
    spec.x_scale = per_row_ ? 1.0f : rng.pick({0.5f, 0.02f, 1.1920929e-7f});
    spec.x_zero_point = per_row_ ? 0 : static_cast<int32_t>(rng.pick<int64_t>({0, 128, 255, rng.between(0, 255)}));

    const Side side = rng.chance(50) ? Side::start : Side::end;
    const int64_t lda = k_ + rng.pick<int64_t>({0, 0, 1, 13});
    std::vector<int32_t> row_zero_point(static_cast<size_t>(m_));
    std::vector<float> row_scale(static_cast<size_t>(m_));
    for (int32_t& z : row_zero_point) z = static_cast<int32_t>(rng.pick<int64_t>({0, 128, 255, rng.between(0, 255)}));
    for (float& s : row_scale) s = rng.uniform(0.001f, 0.1f);
    RowParams rows;
    if (per_row_) {
      rows.zero_point = row_zeros_.place(row_zero_point, side);
      rows.scale = row_scales_.place(row_scale, side);
    }
    const double w_size = (bits_ == 4 ? 8.0 : 128.0) * (layer.scale.empty() ? 1.0f : layer.scale[0]),
                 x_size = 255.0 * (per_row_ ? 0.05 : spec.x_scale);
    const OutputSpec out = any_output(rng, w_size * x_size * std::sqrt(double(k_) + 1), group_size_ == 0);
    const int64_t size = static_cast<int64_t>(out_size(out.type)), ldc = (n_ + rng.pick<int64_t>({0, 0, 1, 5})) * size;
    now_testing("linear m=%d n=%d k=%d bits=%d group=%d w_zero_point=%d per_row=%d bias=%d bias32=%d out=%d lda=%d ldc=%d",
                int(m_), int(n_), int(k_), bits_, int(group_size_), zero_points_, per_row_, !layer.bias.empty(),
                !layer.bias_int32.empty(), int(out.type), int(lda), int(ldc));

    const int64_t x_bytes = m_ > 0 ? (m_ - 1) * lda + k_ : 0;
    uint8_t* x = x_.place<uint8_t>(static_cast<size_t>(x_bytes), side);
    fill(rng, any_mood(rng), x, x_bytes);
    const PackedView view = layer.pack_into(packed_);

    std::vector<int8_t> back(layer.weight.size());
    unpack(view, back.data());
    EXPECT_EQ(back, layer.weight) << current_case();

    std::vector<uint8_t> want(static_cast<size_t>(m_ * n_ * size));
    for (int64_t i = 0; i < m_; ++i)
      for (int64_t n = 0; n < n_; ++n) define(layer, out, rows, x + i * lda, i, n, groups, want.data() + (i * n_ + n) * size);
    return same_everywhere(got_, want, m_, n_ * size, ldc, side, [&](void* c) { linear(view, x, m_, lda, c, ldc, out, rows); });
  }

 private:
  void define(const Layer& layer, const OutputSpec& out, const RowParams& rows, const uint8_t* x, int64_t row, int64_t n,
              int64_t groups, void* c) const {
    const PackSpec& s = layer.spec;
    const int64_t zx = rows.zero_point ? rows.zero_point[row] : s.x_zero_point, zw = s.zero_point ? s.zero_point[n] : 0;
    const float bias = s.bias ? s.bias[n] : 0.0f;
    const float x_scale = rows.scale ? rows.scale[row] : s.x_scale;
    float f = 0.0f;
    int64_t acc = s.bias_int32 ? s.bias_int32[n] : 0;
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t begin = g * group_size_, end = group_size_ > 0 && begin + group_size_ < k_ ? begin + group_size_ : k_;
      for (int64_t k = begin; k < end; ++k) acc += (x[k] - zx) * (s.weight[n * k_ + k] - zw);
      if (group_size_ > 0) {
        f = std::fmaf(static_cast<float>(acc), s.scale[n * groups + g], f);
        acc = 0;
      }
    }
    if (group_size_ > 0) {
      store_float(out, std::fmaf(f, x_scale, bias), c);
    } else {
      const float w_scale = s.scale[s.scale_count == 1 ? 0 : n];
      store_exact(out, acc, w_scale * x_scale, bias, c);
    }
  }

  int64_t m_ = 1, n_ = 1, k_ = 1, group_size_ = 0;
  int bits_ = 8;
  bool zero_points_ = false, per_row_ = false;
  Guarded x_{1 << 20}, packed_{1 << 20}, row_zeros_{1 << 12}, row_scales_{1 << 12};
  Output got_{1 << 20};
};

// Shapes at every edge of a register tile (1..16 rows), of a panel (16, 32, 48, 64 columns) and of a group of four k, and primes.
const std::vector<int64_t> kM = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 17, 23};
const std::vector<int64_t> kN = {0, 1, 2, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65, 79, 127, 128, 129};
const std::vector<int64_t> kK = {0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 32, 33, 61, 64, 67, 127};

TEST(Linear, EveryPathGivesTheDefinedBytes) {
  Rng rng(100);
  LinearCase c;
  for (int i = 0; i < cases(60000); ++i) {
    const bool grouped = rng.chance(25);
    c.m(rng.pick(kM)).n(rng.pick(kN)).k(rng.pick(kK)).bits(rng.chance(70) ? 8 : 4).per_row(rng.chance(40));
    c.group_size(grouped ? rng.pick<int64_t>({4, 16, 32, 64}) : 0).zero_points(!grouped && rng.chance(25));
    if (!c.run(rng)) return;
  }
}

TEST(Linear, ThreadsShareTheWork) {
  Rng rng(101);
  LinearCase c;
  for (int i = 0; i < cases(150); ++i) {  // about 2^20 multiply-adds and more, so that two threads take part
    switch (i % 3) {
      case 0:
        c.m(rng.between(60, 70)).n(rng.between(120, 200)).k(rng.between(150, 180));
        break;
      case 1:
        c.m(rng.between(1, 5)).n(rng.between(800, 900)).k(rng.between(600, 700));
        break;
      case 2:
        c.m(rng.between(600, 700)).n(rng.between(10, 20)).k(rng.between(200, 250));
        break;
    }
    c.bits(rng.chance(60) ? 8 : 4).per_row(rng.chance(40)).group_size(rng.chance(30) ? 32 : 0);
    if (!c.run(rng)) return;
  }
}

// Fewer panels and tiles than threads: each has a part of K.
TEST(Linear, ThreadsShareALongK) {
  Rng rng(104);
  LinearCase c;
  for (int i = 0; i < cases(60); ++i) {
    c.m(rng.pick<int64_t>({1, 2, 3, 6}))
        .n(rng.pick<int64_t>({1, 16, 31, 48, 64}))
        .k(rng.pick<int64_t>({8192, 8195, 8999, 12301}));
    if (!c.bits(rng.chance(60) ? 8 : 4).per_row(rng.chance(40)).group_size(0).zero_points(rng.chance(40)).run(rng)) return;
  }
}

TEST(Linear, NoProductLeavesTheBias) {
  Rng rng(102);
  LinearCase c;
  for (int i = 0; i < 20; ++i)
    if (!c.m(3).n(17).k(0).bits(i % 2 ? 4 : 8).group_size(i % 3 ? 0 : 32).zero_points(false).per_row(i % 4 == 0).run(rng)) return;
}

// Quantization and product in one call are the two calls, wherever rows are quantized and by whom.
TEST(Linear, DynamicIsQuantizeThenProduct) {
  Rng rng(103);
  Guarded packed(1 << 20), x_memory(1 << 20);
  Output got(1 << 20);
  for (int i = 0; i < cases(4000); ++i) {
    const bool tall = i % 4 == 0;  // rows enough for each thread to have its own
    const int64_t m = tall ? rng.between(60, 90) : rng.pick(kM), n = rng.pick(kN), k = rng.pick(kK);
    Layer layer;
    layer.spec.kind = PackedKind::linear;
    layer.spec.k = k;
    layer.spec.bits = rng.chance(70) ? 8 : 4;
    layer.spec.group_size = rng.chance(25) ? 16 : 0;
    layer.spec.dynamic = true;
    layer.fill_values(rng, n, k, layer.spec.group_size == 0 && rng.chance(30),
                      layer.spec.group_size > 0 ? n * ((k + 15) / 16) : n);
    const PackedView view = layer.pack_into(packed);
    const int64_t ldx = k + rng.pick<int64_t>({0, 3}), elements = m > 0 ? (m - 1) * ldx + k : 0;
    float* x = x_memory.place<float>(static_cast<size_t>(elements), rng.chance(50) ? Side::start : Side::end);
    for (int64_t j = 0; j < elements; ++j) x[j] = rng.uniform(-3, 5);
    const bool per_row = rng.chance(80), symmetric = rng.chance(50);
    now_testing("linear_dynamic m=%d n=%d k=%d bits=%d group=%d w_zero_point=%d per_row=%d symmetric=%d", int(m), int(n), int(k),
                layer.spec.bits, int(layer.spec.group_size), !layer.zero_point.empty(), per_row, symmetric);
    OutputSpec out;
    out.f_lo = rng.chance(50) ? 0.0f : -INFINITY;
    out.f_hi = INFINITY;
    std::vector<uint8_t> q(static_cast<size_t>(m * k)), want(static_cast<size_t>(4 * m * n));
    std::vector<float> scale(static_cast<size_t>(m + 1));
    std::vector<int32_t> zero_point(static_cast<size_t>(m + 1));
    quantize_dynamic(x, m, k, ldx, q.data(), scale.data(), zero_point.data(), per_row, symmetric);
    for (size_t r = 1; r < static_cast<size_t>(m) && !per_row; ++r) scale[r] = scale[0], zero_point[r] = zero_point[0];
    linear(view, q.data(), m, k, want.data(), 4 * n, out, {zero_point.data(), scale.data()});
    if (!same_everywhere(got, want, m, 4 * n, 4 * n, Side::end, [&](void* c) {
          linear_dynamic(view, x, m, ldx, static_cast<float*>(c), 4 * n, per_row, symmetric, out.f_lo, out.f_hi);
        }))
      return;
    if (m == 0 || k == 0 || n == 0) continue;
    const int64_t bad = rng.between(0, m - 1), later = rng.between(bad, m - 1);
    x[bad * ldx + rng.between(0, k - 1)] = NAN;
    x[later * ldx + rng.between(0, k - 1)] = INFINITY;
    std::vector<float> y(static_cast<size_t>(m * n));
    for (int threads : {1, 2}) {
      omp_set_num_threads(threads);
      grain_divisor = threads > 1 ? int64_t(1) << 40 : 1;
      try {
        linear_dynamic(view, x, m, ldx, y.data(), 4 * n, per_row, symmetric, out.f_lo, out.f_hi);
        FAIL() << "accepted a NaN: " << current_case();
      } catch (const Error& e) {
        ASSERT_NE(std::string(e.what()).find("row " + std::to_string(bad) + " "), std::string::npos)
            << e.what() << current_case();
      }
    }
  }
}

}  // namespace
}  // namespace test
}  // namespace qgemm
