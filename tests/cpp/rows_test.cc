// The drivers of softmax and the normalizations: every path, 1 and 2 threads, masks of any broadcasting, against fp64.
#include "ops/rows.h"

#include <cmath>

#include "driver_case.h"

namespace qgemm {
namespace test {
namespace {

struct Case {
  std::vector<uint8_t> bytes;
  std::vector<float> floats;
  RowInput x;

  Case(Rng& rng, int64_t count) {
    x.is_u8 = rng.chance(60);
    x.encoding = {rng.uniform(0.01f, 0.2f), static_cast<int32_t>(rng.between(0, 255))};
    bytes.resize(static_cast<size_t>(count));
    floats.resize(static_cast<size_t>(count));
    for (size_t i = 0; i < bytes.size(); ++i) {
      bytes[i] = static_cast<uint8_t>(rng.between(0, 255));
      floats[i] = x.is_u8 ? x.encoding.scale * static_cast<float>(bytes[i] - x.encoding.zero_point) : rng.uniform(-9, 9);
    }
    x.data = x.is_u8 ? static_cast<const void*>(bytes.data()) : floats.data();
  }
};

// Every path and thread count gives the bytes of the reference on one thread, and those lie within a step (or 1e-6 of the size)
// of the real numbers.
bool same_and_near(const std::vector<double>& truth, int64_t rows, int64_t n, const OutputSpec& out,
                   const std::function<void(void*)>& call) {
  const int64_t size = static_cast<int64_t>(out_size(out.type)), bytes = n * size;
  std::vector<uint8_t> want(static_cast<size_t>(rows * bytes));
  {
    Forced forced(Isa::ref);
    call(want.data());
  }
  for (size_t i = 0; i < truth.size(); ++i) {
    double got, exact = truth[i], tolerance;
    if (out.type == OutType::f32) {
      float f;
      std::memcpy(&f, &want[4 * i], 4);
      got = f;
      tolerance = 4e-6 * std::fabs(exact) + 1e-6;  // of an input that was itself rounded to fp32
    } else {
      got = out.type == OutType::s8 ? want[i] ^ 0x80 : want[i];
      const double q = std::nearbyint(exact / out.scale) + out.zero_point;
      exact = q < out.lo ? out.lo : q > out.hi ? out.hi : q;
      tolerance = 1;
    }
    if (!(std::fabs(got - exact) <= tolerance)) {
      ADD_FAILURE() << "element " << i << ": " << got << ", the exact result is " << exact << ": " << current_case();
      return false;
    }
  }
  Output got(static_cast<size_t>(rows * bytes) + 4096);
  return same_everywhere(got, want, rows, bytes, bytes, Side::end, call);
}

OutputSpec any_spec(Rng& rng, double size) {
  OutputSpec o = any_output(rng, size, false);
  o.scale = static_cast<float>(size / 200);
  return o;
}

TEST(Rows, Softmax) {
  Rng rng(500);
  for (int i = 0; i < cases(300); ++i) {
    Mask mask;
    mask.d0 = rng.between(1, 3);
    mask.d1 = rng.between(1, 3);
    mask.d2 = rng.between(1, 5);
    const int64_t rows = mask.d0 * mask.d1 * mask.d2, n = rng.pick<int64_t>({1, 5, 16, 33, 64, 130});
    const Case c(rng, rows * n);
    std::vector<float> values(static_cast<size_t>(rows * n));
    for (float& v : values) v = rng.chance(30) ? -INFINITY : rng.uniform(-3, 3);
    if (rng.chance(70)) {
      mask.data = values.data();
      mask.s0 = rng.chance(50) ? mask.d1 * mask.d2 * n : 0;
      mask.s1 = rng.chance(50) ? mask.d2 * n : 0;
      mask.s2 = rng.chance(50) ? n : 0;
      for (int64_t r = 0; r < rows; ++r) values[static_cast<size_t>(r * n)] = 0.5f;  // something is visible in every row
    }
    std::vector<double> truth;
    for (int64_t r = 0; r < rows; ++r) {
      const float* m = mask.data
                           ? mask.data + r / mask.d2 / mask.d1 * mask.s0 + r / mask.d2 % mask.d1 * mask.s1 + r % mask.d2 * mask.s2
                           : nullptr;
      std::vector<double> e;
      double most = -INFINITY, sum = 0;
      for (int64_t j = 0; j < n; ++j) e.push_back(double(c.floats[static_cast<size_t>(r * n + j)]) + (m ? m[j] : 0));
      for (double v : e) most = v > most ? v : most;
      for (double& v : e) sum += v = std::exp(v - most);
      for (double v : e) truth.push_back(v / sum);
    }
    const OutputSpec out = any_spec(rng, 1);
    now_testing("softmax %d x %d x %d rows of %d, u8=%d, mask strides %d %d %d", int(mask.d0), int(mask.d1), int(mask.d2), int(n),
                c.x.is_u8, int(mask.s0), int(mask.s1), int(mask.s2));
    if (!same_and_near(truth, rows, n, out, [&](void* y) { softmax(c.x, rows, n, mask, y, out); })) return;
  }
}

TEST(Rows, Norm) {
  Rng rng(501);
  for (int i = 0; i < cases(300); ++i) {
    const int64_t rows = rng.between(1, 6), n = rng.pick<int64_t>({2, 5, 16, 33, 64, 130});
    const Case c(rng, rows * n);
    const bool center = rng.chance(50), affine = rng.chance(70);
    std::vector<float> gamma(static_cast<size_t>(n), 1), beta(static_cast<size_t>(n), 0);
    if (affine)
      for (int64_t j = 0; j < n; ++j)
        gamma[static_cast<size_t>(j)] = rng.uniform(-2, 2), beta[static_cast<size_t>(j)] = rng.uniform(-1, 1);
    std::vector<double> truth;
    for (int64_t r = 0; r < rows; ++r) {
      const float* x = &c.floats[static_cast<size_t>(r * n)];
      double mean = 0, v = 0;
      for (int64_t j = 0; j < n; ++j) mean += x[j] / double(n);
      if (!center) mean = 0;
      for (int64_t j = 0; j < n; ++j) v += (x[j] - mean) * (x[j] - mean) / double(n);
      for (int64_t j = 0; j < n; ++j) {
        const size_t k = static_cast<size_t>(j);
        truth.push_back((x[j] - mean) / std::sqrt(v + 1e-5) * gamma[k] + beta[k]);
      }
    }
    const OutputSpec out = any_spec(rng, 4);
    now_testing("norm %d rows of %d, u8=%d, center=%d", int(rows), int(n), c.x.is_u8, center);
    if (!same_and_near(truth, rows, n, out, [&](void* y) {
          norm(c.x, rows, n, center, 1e-5, affine ? gamma.data() : nullptr, affine ? beta.data() : nullptr, y, out);
        }))
      return;
  }
}

TEST(Rows, ALongRowOfTheLargestBytesIsExact) {
  const int64_t n = 300001;
  std::vector<uint8_t> x(static_cast<size_t>(n), 255), y(x.size());
  x[0] = 0;
  OutputSpec out;
  out.type = OutType::u8;
  out.scale = 1;
  out.zero_point = 128;
  const double sd = 255 * std::sqrt(double(n - 1)) / double(n);  // one byte of n differs
  for (Isa isa : runnable_isas()) {
    Forced forced(isa);
    norm({x.data(), true, {0.02f, 7}}, 1, n, true, 0, nullptr, nullptr, y.data(), out);
    EXPECT_EQ(y[0], 0) << isa_name(isa);
    EXPECT_EQ(y[1], 128 + std::nearbyint(255.0 / double(n) / sd)) << isa_name(isa);
    softmax({x.data(), true, {0.02f, 7}}, 1, n, {}, y.data(), out);
    EXPECT_EQ(y[1], 128) << isa_name(isa);
  }
  EXPECT_ANY_THROW(norm({x.data(), true, {0.02f, 7}}, 1, int64_t(1) << 24, true, 0, nullptr, nullptr, y.data(), out));
  EXPECT_ANY_THROW(norm({x.data(), true, {0.02f, 7}}, 1, n, true, -1, nullptr, nullptr, y.data(), out));
}

}  // namespace
}  // namespace test
}  // namespace qgemm
