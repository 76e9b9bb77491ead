// Products of floats: the definition with its blocks of k, every path, 1 and 2 threads.
#include "ops/product.h"

#include <algorithm>
#include <cmath>

#include "driver_case.h"

namespace qgemm {
namespace test {
namespace {

struct Operand {
  Guarded memory{1 << 21};
  const float* data = nullptr;

  const float* make(Rng& rng, int64_t count) {
    float* p = memory.place<float>(static_cast<size_t>(count), rng.chance(50) ? Side::start : Side::end);
    for (int64_t i = 0; i < count; ++i) p[i] = rng.uniform(-1, 1);
    return data = p;
  }
};

// One element as docs/numerics.md defines it.
float element(const float* a, const float* b, int64_t step, int64_t k, float bias) {
  float y = 0.0f;
  for (int64_t k0 = 0; k0 < k; k0 += kProductBlock) {
    float sum = 0.0f;
    for (int64_t i = k0; i < std::min(k, k0 + kProductBlock); ++i) sum = std::fmaf(a[i], b[i * step], sum);
    y = k0 ? y + sum : sum;
  }
  return y + bias;
}

OutputSpec output(Rng& rng) {
  OutputSpec out;
  out.type = rng.chance(50) ? OutType::f32 : OutType::u8;
  out.scale = 0.1f;
  out.zero_point = static_cast<int32_t>(rng.between(0, 255));
  out.lo = static_cast<int32_t>(rng.between(0, 9));
  out.f_lo = -INFINITY;
  out.f_hi = INFINITY;
  return out;
}

void store(const OutputSpec& out, float y, uint8_t* c) {
  if (out.type == OutType::f32)
    std::memcpy(c, &y, 4);
  else
    *c = static_cast<uint8_t>(
        std::clamp(static_cast<int32_t>(std::nearbyintf(y * (1.0f / out.scale))) + out.zero_point, out.lo, out.hi));
}

TEST(Product, EveryPathGivesTheDefinedBytes) {
  Rng rng(800);
  Operand x, w, added;
  Output got(1 << 20);
  std::vector<float> packed;
  for (int i = 0; i < cases(1500); ++i) {
    const bool large = i % 50 == 0;  // for two threads, and for several blocks of rows
    const int64_t m = large ? rng.between(90, 200) : rng.pick<int64_t>({0, 1, 2, 5, 6, 7, 13}),
                  n = large ? rng.between(60, 140) : rng.pick<int64_t>({0, 1, 15, 16, 17, 33, 48, 63, 64, 65}),
                  k = rng.pick<int64_t>({0, 1, 2, 31, 255, 256, 257, 600});
    const bool transposed = rng.chance(50), biased = rng.chance(50);
    const float *a = x.make(rng, m * k), *b = w.make(rng, n * k), *bias = biased ? added.make(rng, n) : nullptr;
    const OutputSpec out = output(rng);
    now_testing("product m=%d n=%d k=%d transposed=%d biased=%d out=%d", int(m), int(n), int(k), transposed, biased,
                int(out.type));
    packed.assign(static_cast<size_t>(FloatPanels::floats(k, n)), NAN);
    pack_floats(b, transposed ? k : n, transposed, k, n, packed.data());
    const int64_t size = static_cast<int64_t>(out_size(out.type));
    std::vector<uint8_t> want(static_cast<size_t>(m * n * size));
    for (int64_t r = 0; r < m; ++r)
      for (int64_t j = 0; j < n; ++j)
        store(out, element(a + r * k, transposed ? b + j * k : b + j, transposed ? 1 : n, k, biased ? bias[j] : 0.0f),
              want.data() + (r * n + j) * size);
    const FloatPanels panels{packed.data(), k, n};
    if (!same_everywhere(got, want, m, n * size, n * size, Side::end,
                         [&](void* c) { product(a, m, k, panels, bias, c, n * size, out); }))
      return;
  }
}

TEST(Product, BatchesPackTheirRightOperands) {
  Rng rng(801);
  Operand x, w;
  Output got(1 << 20);
  for (int i = 0; i < cases(600); ++i) {
    const bool large = i % 30 == 0;
    const int64_t batch = rng.between(0, large ? 4 : 3), m = large ? rng.between(60, 100) : rng.pick<int64_t>({0, 1, 5, 7, 13}),
                  n = large ? rng.between(60, 100) : rng.pick<int64_t>({0, 1, 16, 17, 65}),
                  k = rng.pick<int64_t>({0, 1, 31, 300});
    const bool transposed = rng.chance(50);
    const float *a = x.make(rng, batch * m * k), *b = w.make(rng, batch * n * k);
    const OutputSpec out = output(rng);
    now_testing("product_batch batch=%d m=%d n=%d k=%d transposed=%d out=%d", int(batch), int(m), int(n), int(k), transposed,
                int(out.type));
    const int64_t size = static_cast<int64_t>(out_size(out.type));
    std::vector<uint8_t> want(static_cast<size_t>(batch * m * n * size));
    uint8_t* c = want.data();
    for (int64_t g = 0; g < batch; ++g)
      for (int64_t r = 0; r < m; ++r)
        for (int64_t j = 0; j < n; ++j, c += size) {
          const float* right = b + g * n * k;
          store(out, element(a + (g * m + r) * k, transposed ? right + j * k : right + j, transposed ? 1 : n, k, 0.0f), c);
        }
    const FloatMatrix left{a, m * k, k, false}, right{b, n * k, transposed ? k : n, transposed};
    if (!same_everywhere(got, want, batch * m, n * size, n * size, Side::end,
                         [&](void* p) { product_batch(batch, m, n, k, left, right, p, m * n * size, n * size, out); }))
      return;
  }
}

}  // namespace
}  // namespace test
}  // namespace qgemm
