// The elementwise and pooling drivers: the definition, every path, 1 and 2 threads.
#include "driver_case.h"
#include "ops/eltwise.h"
#include "ops/layout.h"
#include "ops/pool.h"
#include "ops/quantize.h"

namespace qgemm {
namespace test {
namespace {

// Short runs, and one long enough for two threads.
int64_t any_size(Rng& rng, int i) { return i % 20 == 0 ? rng.between(140000, 150000) : rng.between(0, 300); }

TEST(Ops, Add) {
  Rng rng(400);
  Guarded a_memory(1 << 18), b_memory(1 << 18);
  Output got(1 << 18);
  for (int i = 0; i < cases(600); ++i) {
    const int64_t n = any_size(rng, i);
    uint8_t *a = a_memory.place<uint8_t>(static_cast<size_t>(n), Side::end),
            *b = b_memory.place<uint8_t>(static_cast<size_t>(n), Side::end);
    fill(rng, any_mood(rng), a, n);
    fill(rng, any_mood(rng), b, n);
    const Encoding8 ea{rng.uniform(0.01f, 1), static_cast<int32_t>(rng.between(0, 255))},
        eb{0.5f, static_cast<int32_t>(rng.between(0, 255))};
    OutputSpec out = any_output(rng, 200, false);
    out.type = OutType::u8;
    now_testing("add n=%d", int(n));
    std::vector<uint8_t> want(static_cast<size_t>(n));
    for (int64_t j = 0; j < n; ++j) {
      const float x = ea.scale * static_cast<float>(a[j] - ea.zero_point),
                  y = eb.scale * static_cast<float>(b[j] - eb.zero_point);
      store_float(out, x + y, &want[static_cast<size_t>(j)]);
    }
    if (!same_everywhere(got, want, 1, n, n, Side::end, [&](void* c) { add(a, ea, b, eb, static_cast<uint8_t*>(c), n, out); }))
      return;
  }
}

// Rows with distances of their own, and an operand of which one row serves several.
TEST(Ops, SumsAndProductsOfRows) {
  Rng rng(406);
  int factored = 0, tried = 0;
  Guarded a_memory(1 << 18), b_memory(1 << 18);
  Output got(1 << 18);
  for (int i = 0; i < cases(4000); ++i) {
    const int64_t n = rng.pick<int64_t>({0, 1, 15, 24, 32, 48, 64, 65, 200}), repeat = rng.pick<int64_t>({1, 1, 2, 7, 8, 37}),
                  rows = repeat * rng.between(0, 9), ldc = n + rng.pick<int64_t>({0, 0, 3});
    const bool product = rng.chance(50);
    Operand8 a{nullptr, n + rng.pick<int64_t>({0, 0, 5}), {rng.uniform(0.01f, 1), static_cast<int32_t>(rng.between(0, 255))}};
    Operand8 b{
        nullptr, n + rng.pick<int64_t>({0, 0, 9}), {rng.uniform(0.01f, 1), static_cast<int32_t>(rng.between(0, 255))}, repeat};
    const int64_t a_bytes = rows ? (rows - 1) * a.ld + n : 0, b_bytes = rows ? (rows / repeat - 1) * b.ld + n : 0;
    uint8_t *pa = a_memory.place<uint8_t>(static_cast<size_t>(a_bytes), Side::end),
            *pb = b_memory.place<uint8_t>(static_cast<size_t>(b_bytes), Side::end);
    fill(rng, any_mood(rng), pa, a_bytes);
    fill(rng, any_mood(rng), pb, b_bytes);
    a.data = pa;
    b.data = pb;
    OutputSpec out = any_output(rng, 200, false);
    out.type = OutType::u8;
    now_testing("rows=%d n=%d repeat=%d product=%d", int(rows), int(n), int(repeat), product);
    std::vector<uint8_t> want(static_cast<size_t>(rows * n));
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t j = 0; j < n; ++j) {
        const float x = a.encoding.scale * static_cast<float>(pa[r * a.ld + j] - a.encoding.zero_point),
                    y = b.encoding.scale * static_cast<float>(pb[r / repeat * b.ld + j] - b.encoding.zero_point);
        store_float(out, product ? x * y : x + y, &want[static_cast<size_t>(r * n + j)]);
      }
    const auto factors = product && repeat > 1 ? product_factors(a.encoding, b.encoding, out) : nullptr;
    factored += factors != nullptr;
    tried += product && repeat > 1;
    const auto call = [&](void* c) {
      if (product)
        mul(a, b, static_cast<uint8_t*>(c), ldc, rows, n, out, factors.get());
      else
        add(a, b, static_cast<uint8_t*>(c), ldc, rows, n, out);
    };
    if (!same_everywhere(got, want, rows, n, ldc, Side::end, call)) return;
  }
  EXPECT_GT(factored, tried / 2);  // otherwise floats were compared with floats
}

// Products that tie between two steps, and those far beyond the grid.
TEST(Ops, ProductFactorsAreRefusedWhereTheyWouldDiffer) {
  OutputSpec out;
  out.type = OutType::u8;
  out.scale = 0.04f;
  out.zero_point = 10;
  EXPECT_NE(product_factors({0.02f, 0}, {0.00391f, 0}, out), nullptr);  // a sigmoid's grid
  EXPECT_EQ(product_factors({100.0f, 0}, {10.0f, 0}, out), nullptr);
  out.scale = 0.1f;
  EXPECT_EQ(product_factors({0.01f, 3}, {0.1f, 0}, out), nullptr);
}

// Every pair of bytes, by tables where they exist: the definition's bytes on every path.
TEST(Ops, SumsByTables) {
  Rng rng(407);
  constexpr int kPairs = 256 * 256;
  std::vector<uint8_t> a(kPairs), b(kPairs), want(kPairs);
  for (int i = 0; i < kPairs; ++i)
    a[static_cast<size_t>(i)] = static_cast<uint8_t>(i / 256), b[static_cast<size_t>(i)] = static_cast<uint8_t>(i);
  Output got(1 << 17);
  int exist = 0, tried = 0;
  const auto any_zero = [&] { return static_cast<int32_t>(rng.pick<int64_t>({0, 128, 255, rng.between(0, 255)})); };
  for (int i = 0; i < cases(200); ++i, ++tried) {
    OutputSpec out = any_output(rng, 200, false);
    out.type = OutType::u8;
    const Encoding8 ea{out.scale * rng.uniform(0.2f, 1.6f), any_zero()}, eb{out.scale * rng.uniform(0.2f, 1.6f), any_zero()};
    const auto tables = sum_tables(ea, eb, out);
    exist += tables != nullptr;
    now_testing("tables sa=%g za=%d sb=%g zb=%d so=%g zo=%d [%d,%d] exist=%d", double(ea.scale), ea.zero_point, double(eb.scale),
                eb.zero_point, double(out.scale), out.zero_point, out.lo, out.hi, tables != nullptr);
    for (size_t j = 0; j < a.size(); ++j)
      store_float(out, ea.scale * static_cast<float>(a[j] - ea.zero_point) + eb.scale * static_cast<float>(b[j] - eb.zero_point),
                  &want[j]);
    if (!same_everywhere(got, want, 1, kPairs, kPairs, Side::end, [&](void* c) {
          add({a.data(), kPairs, ea}, {b.data(), kPairs, eb}, static_cast<uint8_t*>(c), kPairs, 1, kPairs, out, tables.get());
        }))
      return;
  }
  EXPECT_GT(exist, tried / 10);  // otherwise floats were compared with floats
}

// Encodings that integers cannot stand for: half of all pairs tie between two steps, or an operand counts more than 254 steps
// upwards.
TEST(Ops, SumTablesAreRefusedWhereTheyWouldDiffer) {
  OutputSpec out;
  out.type = OutType::u8;
  out.scale = 0.04f;
  out.zero_point = 10;
  EXPECT_EQ(sum_tables({0.02f, 10}, {0.02f, 10}, out), nullptr);
  out.scale = 0.033f;
  EXPECT_NE(sum_tables({0.02f, 100}, {0.02f, 20}, out), nullptr);
  EXPECT_EQ(sum_tables({100.0f, 100}, {0.02f, 20}, out), nullptr);
  out.scale = 0.02001f;
  out.zero_point = 0;
  EXPECT_EQ(sum_tables({0.0201f, 0}, {0.0199f, 0}, out), nullptr);
}

TEST(Ops, Lut) {
  Rng rng(401);
  Guarded x_memory(1 << 18);
  Output got(1 << 18);
  uint8_t table[256];
  for (int i = 0; i < cases(400); ++i) {
    const int64_t n = any_size(rng, i);
    uint8_t* x = x_memory.place<uint8_t>(static_cast<size_t>(n), Side::end);
    fill(rng, any_mood(rng), x, n);
    fill(rng, Mood::uniform, table, 256);
    now_testing("lut n=%d", int(n));
    std::vector<uint8_t> want(static_cast<size_t>(n));
    for (int64_t j = 0; j < n; ++j) want[static_cast<size_t>(j)] = table[x[j]];
    if (!same_everywhere(got, want, 1, n, n, Side::end, [&](void* c) { lut(x, table, static_cast<uint8_t*>(c), n); })) return;
  }
}

TEST(Ops, Transpose) {
  Rng rng(405);
  Guarded x_memory(1 << 20);
  Output got(1 << 20);
  for (int i = 0; i < cases(600); ++i) {
    const bool large = i % 20 == 0;  // enough for two threads
    const int64_t size = rng.pick({1, 4}), batch = rng.between(large ? 1 : 0, 3),
                  rows = rng.between(large ? 150 : 0, large ? 170 : 70), columns = rng.between(large ? 290 : 0, large ? 310 : 70),
                  n = batch * rows * columns * size;
    uint8_t* x = x_memory.place<uint8_t>(static_cast<size_t>(n), Side::end);
    fill(rng, Mood::uniform, x, n);
    now_testing("transpose batch=%d rows=%d columns=%d size=%d", int(batch), int(rows), int(columns), int(size));
    std::vector<uint8_t> want(static_cast<size_t>(n));
    for (int64_t b = 0; b < batch; ++b)
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < columns; ++c)
          for (int64_t e = 0; e < size; ++e)
            want[static_cast<size_t>(((b * columns + c) * rows + r) * size + e)] = x[((b * rows + r) * columns + c) * size + e];
    if (!same_everywhere(got, want, 1, n, n, rng.pick({Side::start, Side::end}),
                         [&](void* y) { transpose(x, batch, rows, columns, static_cast<size_t>(size), y); }))
      return;
  }
}

TEST(Ops, QuantizePerChannel) {
  Rng rng(402);
  Guarded x_memory(1 << 20);
  Output got(1 << 19);
  for (int i = 0; i < cases(600); ++i) {
    const ChannelShape shape{rng.between(0, 5), rng.pick<int64_t>({1, 2, 3, 17}),
                             i % 20 == 0 ? rng.between(3000, 3100) : rng.pick<int64_t>({1, 1, 7, 64})};
    const int64_t n = shape.outer * shape.channels * shape.inner;
    const IntType type{static_cast<int>(rng.between(1, 2)), rng.chance(50)};
    const int64_t lo = type.is_signed ? -(int64_t(1) << (8 * type.bytes - 1)) : 0, hi = lo + (int64_t(1) << (8 * type.bytes)) - 1;
    float* x = x_memory.place<float>(static_cast<size_t>(n), Side::end);
    for (int64_t j = 0; j < n; ++j)
      x[j] = rng.chance(10) ? static_cast<float>(rng.between(-300, 300)) + 0.5f : rng.uniform(-300, 300);
    std::vector<float> scale(static_cast<size_t>(shape.channels));
    std::vector<int32_t> zero_point(scale.size());
    for (float& s : scale) s = rng.pick({1.0f, 0.5f, rng.uniform(0.001f, 2)});
    for (int32_t& z : zero_point) z = static_cast<int32_t>(rng.between(lo, hi));
    now_testing("quantize outer=%d channels=%d inner=%d bytes=%d signed=%d", int(shape.outer), int(shape.channels),
                int(shape.inner), type.bytes, type.is_signed);
    std::vector<uint8_t> want(static_cast<size_t>(n * type.bytes));
    for (int64_t j = 0; j < n; ++j) {
      const size_t c = static_cast<size_t>(j / shape.inner % shape.channels);
      double q = std::nearbyint(static_cast<double>(x[j] * (1.0f / scale[c]))) + zero_point[c];
      q = q < double(lo) ? double(lo) : q > double(hi) ? double(hi) : q;
      const int32_t bits = static_cast<int32_t>(q);
      std::memcpy(&want[static_cast<size_t>(j * type.bytes)], &bits, static_cast<size_t>(type.bytes));
    }
    const int64_t bytes = n * type.bytes;
    if (!same_everywhere(got, want, 1, bytes, bytes, Side::end,
                         [&](void* q) { quantize(x, q, type, shape, scale.data(), zero_point.data(), lo, hi); }))
      return;
  }
}

TEST(Ops, QuantizeDynamic) {
  Rng rng(403);
  Guarded x_memory(1 << 20);
  Output got(1 << 19);
  for (int i = 0; i < cases(600); ++i) {
    const int64_t m = rng.between(1, 9),
                  k = i % 20 == 0 ? rng.between(20000, 21000) : rng.pick<int64_t>({0, 1, 15, 16, 17, 64, 130});
    const bool per_row = rng.chance(50), symmetric = rng.chance(30);
    float* x = x_memory.place<float>(static_cast<size_t>(m * k), Side::end);
    const float shift = rng.pick({0.0f, 3.0f, -3.0f});
    for (int64_t j = 0; j < m * k; ++j) x[j] = rng.uniform(-2, 2) + shift;
    if (rng.chance(20))
      for (int64_t j = 0; j < k; ++j) x[j] = 0;
    now_testing("quantize_dynamic m=%d k=%d per_row=%d symmetric=%d", int(m), int(k), per_row, symmetric);
    std::vector<float> scale(static_cast<size_t>(m)), want_scale(scale);
    std::vector<int32_t> zero_point(scale.size()), want_zero(scale.size());
    std::vector<uint8_t> want(static_cast<size_t>(m * k));
    for (int64_t r = 0; r < m; ++r) {
      float lo = 0, hi = 0;
      for (int64_t j = per_row ? r * k : 0; j < (per_row ? (r + 1) * k : m * k); ++j) {
        lo = std::fmin(lo, x[j]);
        hi = std::fmax(hi, x[j]);
      }
      float s = symmetric ? std::fmax(-lo, hi) / 127.0f : (hi - lo) / 255.0f;
      if (s == 0) s = 1;
      const float z = symmetric ? 128 : std::nearbyint(-lo / s);
      const size_t at = static_cast<size_t>(per_row ? r : 0);
      want_scale[at] = s;
      want_zero[at] = static_cast<int32_t>(z);
      for (int64_t j = 0; j < k; ++j) {
        const double q = std::nearbyint(static_cast<double>(x[r * k + j] * (1.0f / s))) + z;
        want[static_cast<size_t>(r * k + j)] = static_cast<uint8_t>(q < 0 ? 0 : q > 255 ? 255 : q);
      }
    }
    const bool same = same_everywhere(got, want, 1, m * k, m * k, Side::end, [&](void* q) {
      quantize_dynamic(x, m, k, k, static_cast<uint8_t*>(q), scale.data(), zero_point.data(), per_row, symmetric);
      ASSERT_EQ(std::vector<float>(scale.begin(), scale.begin() + (per_row ? m : 1)),
                std::vector<float>(want_scale.begin(), want_scale.begin() + (per_row ? m : 1)));
      ASSERT_EQ(std::vector<int32_t>(zero_point.begin(), zero_point.begin() + (per_row ? m : 1)),
                std::vector<int32_t>(want_zero.begin(), want_zero.begin() + (per_row ? m : 1)));
    });
    if (!same || testing::Test::HasFailure()) return;
  }
}

Window any_window(Rng& rng) {
  Window w;
  w.batch = rng.between(0, 2);
  w.h = rng.between(1, 9);
  w.w = rng.between(1, 9);
  w.c = rng.pick<int64_t>({1, 3, 15, 16, 17, 31, 32, 33, 64, 65});
  w.kh = rng.between(1, 4);
  w.kw = rng.between(1, 4);
  w.stride_h = rng.between(1, 3);
  w.stride_w = rng.between(1, 3);
  w.top = rng.between(0, w.kh / 2);
  w.left = rng.between(0, w.kw / 2);
  w.bottom = rng.between(0, w.kh / 2);
  w.right = rng.between(0, w.kw / 2);
  if (rng.chance(25)) w.x_stride = w.c + rng.pick<int64_t>({1, 16, 64});
  return w;
}

// f(channel, taps inside the image, values) for every output element in order.
template <class F>
void each_window(const Window& w, const uint8_t* x, F&& f) {
  std::vector<uint8_t> values;
  for (int64_t b = 0; b < w.batch; ++b)
    for (int64_t oy = 0; oy < w.out_h(); ++oy)
      for (int64_t ox = 0; ox < w.out_w(); ++ox)
        for (int64_t c = 0; c < w.c; ++c) {
          values.clear();
          for (int64_t ky = 0; ky < w.kh; ++ky)
            for (int64_t kx = 0; kx < w.kw; ++kx) {
              const int64_t iy = oy * w.stride_h - w.top + ky * w.dilation_h, ix = ox * w.stride_w - w.left + kx * w.dilation_w;
              if (iy >= 0 && iy < w.h && ix >= 0 && ix < w.w) values.push_back(x[((b * w.h + iy) * w.w + ix) * w.pixel() + c]);
            }
          f(values);
        }
}

TEST(Pool, EveryPathGivesTheDefinedBytes) {
  Rng rng(404);
  Guarded x_memory(1 << 16);
  Output got(1 << 18);
  for (int i = 0; i < cases(12000); ++i) {
    Window w = any_window(rng);
    if (i % 2) {
      w.dilation_h = rng.between(1, 2);
      w.dilation_w = rng.between(1, 2);
    }
    const int64_t pixels = w.batch * w.h * w.w, bytes = pixels ? (pixels - 1) * w.pixel() + w.c : 0;
    const int64_t rows = w.batch * w.out_h() * w.out_w(), apart = rng.chance(75) ? 0 : rng.pick<int64_t>({0, 1, 16, 64});
    uint8_t* x = x_memory.place<uint8_t>(static_cast<size_t>(bytes), rng.chance(50) ? Side::start : Side::end);
    fill(rng, any_mood(rng), x, bytes);
    now_testing("pool x=%dx%dx%dx%d kernel=%dx%d stride=%d,%d padding=%d,%d,%d,%d x_stride=%d apart=%d", int(w.batch), int(w.h),
                int(w.w), int(w.c), int(w.kh), int(w.kw), int(w.stride_h), int(w.stride_w), int(w.top), int(w.left),
                int(w.bottom), int(w.right), int(w.x_stride), int(apart));
    if (i % 2) {
      const int64_t stride = w.c + apart;
      std::vector<uint8_t> want;
      each_window(w, x, [&](const std::vector<uint8_t>& v) {
        uint8_t most = 0;
        for (uint8_t q : v) most = q > most ? q : most;
        want.push_back(most);
      });
      if (!same_everywhere(got, want, rows, w.c, stride, Side::end,
                           [&](void* c) { max_pool2d(w, x, static_cast<uint8_t*>(c), apart ? stride : 0); }))
        return;
      continue;
    }
    const Encoding8 e{rng.pick({0.5f, 0.0173f}), static_cast<int32_t>(rng.between(0, 255))};
    const bool include_pad = rng.chance(50);
    const OutputSpec out = any_output(rng, 255 * e.scale, false);
    const int64_t size = static_cast<int64_t>(out_size(out.type));
    std::vector<uint8_t> want(static_cast<size_t>(rows * w.c * size));
    uint8_t* c = want.data();
    each_window(w, x, [&](const std::vector<uint8_t>& v) {
      int64_t sum = 0;
      for (uint8_t q : v) sum += q - e.zero_point;
      const int64_t count = include_pad ? w.kh * w.kw : static_cast<int64_t>(v.size());
      store_float(out, count ? static_cast<float>(sum) * (e.scale / static_cast<float>(count)) : 0.0f, c);
      c += size;
    });
    const int64_t stride = (w.c + apart) * size;
    const auto ends = rng.chance(70) ? average_ends(w, e, include_pad, out) : nullptr;
    if (!same_everywhere(got, want, rows, w.c * size, stride, Side::end,
                         [&](void* p) { avg_pool2d(w, x, e, include_pad, p, out, apart ? stride : 0, ends.get()); }))
      return;
  }
}

// Ends in 16 bits are found where they are promised, are what every sum asks for (a call with each sum says so), and are not
// where bounds cut the averages.
TEST(Pool, EndsOfAverages) {
  Rng rng(43);
  int found = 0, tried = 0;
  const auto form_of = [](int64_t kernel, const Encoding8& e, OutputSpec out) {
    Window w{};
    w.batch = w.c = 1;
    w.h = w.w = w.kh = w.kw = kernel;
    w.stride_h = w.stride_w = w.dilation_h = w.dilation_w = 1;
    const auto ends = average_ends(w, e, true, out);
    const AverageEnd& end = ends->back();
    if (end.words.empty()) return WordsForm::none;
    // Every sum, each a pixel.
    const int64_t n = 255 * kernel * kernel + 1;
    std::vector<uint8_t> x(static_cast<size_t>(kernel * kernel * n)), want(static_cast<size_t>(n)), got(want);
    for (int64_t i = 0; i < n; ++i)
      for (int64_t t = 0, left = i; t < kernel * kernel; ++t) {
        const int64_t q = std::min<int64_t>(left, 255);
        x[static_cast<size_t>(t * n + i)] = static_cast<uint8_t>(q);
        left -= q;
      }
    w.c = n;
    force_isa("ref");
    avg_pool2d(w, x.data(), e, true, want.data(), out);
    force_isa(nullptr);
    avg_pool2d(w, x.data(), e, true, got.data(), out, 0, ends.get());
    EXPECT_EQ(got, want) << "kernel " << kernel << ", scales " << e.scale << ", " << out.scale;
    return end.words.back().form;
  };
  for (int i = 0; i < cases(300); ++i) {
    const Encoding8 e{rng.uniform(0.001f, 1.0f), static_cast<int32_t>(rng.between(0, 255))};
    OutputSpec out{};
    out.type = OutType::u8;
    out.hi = 255;
    out.scale = e.scale;
    out.zero_point = e.zero_point;
    ASSERT_EQ(form_of(2, e, out), WordsForm::thresholds);
    ASSERT_EQ(form_of(3, e, out), WordsForm::rounded);
    out.zero_point = static_cast<int32_t>(rng.between(0, 255));
    out.scale *= rng.uniform(0.5f, 1.0f);
    for (const int64_t kernel : {2, 3}) found += form_of(kernel, e, out) == WordsForm::shifted, ++tried;
    out.lo = 1;
    ASSERT_EQ(form_of(2, e, out), WordsForm::none);
  }
  EXPECT_GT(10 * found, 8 * tried);
}

}  // namespace
}  // namespace test
}  // namespace qgemm
