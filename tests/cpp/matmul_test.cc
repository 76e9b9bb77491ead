// Products of two activations, and linear layers with 16-bit activations: the definition, every path, 1 and 2 threads.
#include "ops/matmul.h"

#include "driver_case.h"

namespace qgemm {
namespace test {
namespace {

// A random 8-bit operand of [batch][rows][columns], stored transposed or not, between guard pages.
struct Operand {
  Guarded memory{1 << 20};
  MatmulOperand at{};
  int64_t rows = 0, columns = 0;

  void make(Rng& rng, int64_t batch, int64_t r, int64_t c) {
    rows = r;
    columns = c;
    at.transposed = rng.chance(50);
    at.is_signed = rng.chance(40);
    at.ld = (at.transposed ? r : c) + rng.pick<int64_t>({0, 0, 3});
    const int64_t lines = at.transposed ? c : r, width = at.transposed ? r : c;
    at.batches = lines * at.ld + rng.pick<int64_t>({0, 5});
    at.scale = rng.pick({0.5f, 0.02f});
    at.zero_point = static_cast<int32_t>(at.is_signed ? rng.between(-128, 127) : rng.between(0, 255));
    const int64_t bytes = batch > 0 && lines > 0 ? at.batches[batch - 1] + (lines - 1) * at.ld + width : 0;
    uint8_t* p = memory.place<uint8_t>(static_cast<size_t>(bytes), rng.chance(50) ? Side::start : Side::end);
    fill(rng, any_mood(rng), p, bytes);
    at.data = p;
  }
  // (q - zero_point) of element (i, j).
  int64_t centred(int64_t b, int64_t i, int64_t j) const {
    const uint8_t byte = at.data[at.batches[b] + (at.transposed ? j * at.ld + i : i * at.ld + j)];
    return (at.is_signed ? static_cast<int64_t>(static_cast<int8_t>(byte)) : static_cast<int64_t>(byte)) - at.zero_point;
  }
};

class MatmulCase {
 public:
  bool run(Rng& rng, int64_t batch, int64_t m, int64_t n, int64_t k) {
    a_.make(rng, batch, m, k);
    b_.make(rng, batch, k, n);
    const OutputSpec out = any_output(rng, 16384.0 * a_.at.scale * b_.at.scale * std::sqrt(double(k) + 1), true);
    const int64_t size = static_cast<int64_t>(out_size(out.type)), ldc = n * size;
    now_testing("matmul batch=%d m=%d n=%d k=%d transposed=%d,%d signed=%d,%d out=%d", int(batch), int(m), int(n), int(k),
                a_.at.transposed, b_.at.transposed, a_.at.is_signed, b_.at.is_signed, int(out.type));
    std::vector<uint8_t> want(static_cast<size_t>(batch * m * n * size));
    uint8_t* c = want.data();
    for (int64_t g = 0; g < batch; ++g)
      for (int64_t i = 0; i < m; ++i)
        for (int64_t j = 0; j < n; ++j, c += size) {
          int64_t acc = 0;
          for (int64_t x = 0; x < k; ++x) acc += a_.centred(g, i, x) * b_.centred(g, x, j);
          store_exact(out, acc, a_.at.scale * b_.at.scale, 0.0f, c);
        }
    return same_everywhere(got_, want, batch * m, ldc, ldc, Side::end,
                           [&](void* p) { matmul(batch, m, n, k, a_.at, b_.at, p, m * ldc, ldc, out); });
  }

 private:
  Operand a_, b_;
  Output got_{1 << 20};
};

TEST(Matmul, EveryPathGivesTheDefinedBytes) {
  Rng rng(500);
  MatmulCase c;
  for (int i = 0; i < cases(6000); ++i) {
    const int64_t m = rng.pick<int64_t>({0, 1, 2, 3, 5, 6, 7, 11, 13}),
                  n = rng.pick<int64_t>({0, 1, 15, 16, 17, 33, 48, 63, 64, 65});
    if (!c.run(rng, rng.between(0, 3), m, n, rng.pick<int64_t>({0, 1, 2, 3, 4, 5, 7, 31, 64, 65}))) return;
  }
}

// Heads beside each other in the rows of several sequences, read where they lie and written beside each other.
TEST(Matmul, HeadsNeedNoCopies) {
  Rng rng(503);
  Guarded a_memory(1 << 18), b_memory(1 << 18);
  Output got(1 << 18);
  for (int i = 0; i < cases(500); ++i) {
    const int64_t sequences = rng.between(1, 3), heads = rng.between(1, 4), m = rng.between(1, 40), n = rng.between(1, 70),
                  k = rng.between(1, 40);
    const bool transposed = rng.chance(50);
    const int64_t rows = transposed ? n : k, width = transposed ? k : n, lda = heads * k, ldb = heads * width, ldc = heads * n;
    MatmulOperand a{nullptr, {k, heads, m * lda}, lda, false, false, 0.02f, 100},
        b{nullptr, {width, heads, rows * ldb}, ldb, transposed, false, 0.03f, 131};
    uint8_t *left = a_memory.place<uint8_t>(static_cast<size_t>(sequences * m * lda), Side::end),
            *right = b_memory.place<uint8_t>(static_cast<size_t>(sequences * rows * ldb), Side::start);
    fill(rng, any_mood(rng), left, sequences * m * lda);
    fill(rng, any_mood(rng), right, sequences * rows * ldb);
    a.data = left;
    b.data = right;
    OutputSpec out;
    out.type = OutType::u8;
    out.scale = 0.9f;
    out.zero_point = 128;
    std::vector<uint8_t> want(static_cast<size_t>(sequences * m * ldc));
    for (int64_t s = 0; s < sequences; ++s)
      for (int64_t h = 0; h < heads; ++h)
        for (int64_t r = 0; r < m; ++r)
          for (int64_t j = 0; j < n; ++j) {
            int64_t acc = 0;
            for (int64_t x = 0; x < k; ++x) {
              const int64_t at = s * rows * ldb + h * width + (transposed ? j * ldb + x : x * ldb + j);
              acc += (int64_t(left[(s * m + r) * lda + h * k + x]) - 100) * (int64_t(right[at]) - 131);
            }
            store_exact(out, acc, static_cast<float>(double(0.02f) * double(0.03f)), 0.0f,
                        want.data() + (s * m + r) * ldc + h * n + j);
          }
    now_testing("sequences=%d heads=%d m=%d n=%d k=%d transposed=%d", int(sequences), int(heads), int(m), int(n), int(k),
                transposed);
    if (!same_everywhere(got, want, sequences * m, ldc, ldc, Side::end, [&](void* c) {
          matmul(sequences * heads, m, n, k, a, b, c, {n, heads, m * ldc}, ldc, out);
        }))
      return;
  }
}

TEST(Matmul, ThreadsShareTheWork) {
  Rng rng(501);
  MatmulCase c;
  for (int i = 0; i < cases(40); ++i)
    if (!c.run(rng, i % 2 ? 1 : 4, rng.between(100, 120), rng.between(100, 140), rng.between(90, 110))) return;
}

TEST(Linear16, EveryPathGivesTheDefinedBytes) {
  Rng rng(502);
  Guarded x_memory(1 << 20), packed(1 << 20);
  Output got(1 << 20);
  for (int i = 0; i < cases(6000); ++i) {
    const bool large = i % 150 == 0;  // for two threads
    const int64_t m = large ? rng.between(60, 70) : rng.pick<int64_t>({0, 1, 2, 5, 6, 7, 13});
    const int64_t n = large ? rng.between(120, 140) : rng.pick<int64_t>({0, 1, 15, 16, 17, 48, 63, 65});
    const int64_t k = large ? rng.between(130, 150) : rng.pick<int64_t>({0, 1, 2, 3, 4, 5, 31, 64, 131});
    Layer layer;
    layer.spec.kind = PackedKind::linear;
    layer.spec.k = k;
    layer.spec.dynamic = true;
    layer.spec.bits = rng.chance(70) ? 8 : 4;
    layer.fill_values(rng, n, k, rng.chance(25), n);
    layer.spec.bias_int32 = nullptr;
    const PackedView view = layer.pack_into(packed);
    const Encoding16 input{1e-4f, static_cast<int32_t>(rng.pick<int64_t>({0, 32768, 65535, rng.between(0, 65535)})),
                           rng.chance(30)};
    const int64_t lda = k + rng.pick<int64_t>({0, 3}), elements = m > 0 ? (m - 1) * lda + k : 0;
    uint16_t* x = x_memory.place<uint16_t>(static_cast<size_t>(elements), rng.chance(50) ? Side::start : Side::end);
    fill(rng, any_mood(rng), reinterpret_cast<uint8_t*>(x), 2 * elements);
    OutputSpec out = any_output(rng, 100, false);
    const bool out16 = rng.chance(30);
    if (out16) {
      out.type = OutType::u8;
      out.zero_point = static_cast<int32_t>(rng.between(0, 65535));
      out.lo = 0;
      out.hi = 65535;
    } else if (out.type == OutType::s8) {
      out.type = OutType::u8;
    }
    if (out.type == OutType::u8) {
      out.f_lo = -INFINITY;
      out.f_hi = INFINITY;
    }
    const int64_t size = out16 ? 2 : static_cast<int64_t>(out_size(out.type));
    now_testing("linear16 m=%d n=%d k=%d bits=%d zero_points=%d signed=%d out=%d out16=%d", int(m), int(n), int(k),
                layer.spec.bits, !layer.zero_point.empty(), input.is_signed, int(out.type), out16);
    std::vector<uint8_t> want(static_cast<size_t>(m * n * size));
    for (int64_t r = 0; r < m; ++r)
      for (int64_t c = 0; c < n; ++c) {
        const int64_t zw = layer.zero_point.empty() ? 0 : layer.zero_point[static_cast<size_t>(c)];
        int64_t acc = 0;
        for (int64_t j = 0; j < k; ++j)
          acc += ((x[r * lda + j] ^ (input.is_signed ? 0x8000 : 0)) - int64_t(input.zero_point)) *
                 (layer.weight[static_cast<size_t>(c * k + j)] - zw);
        const float bias = layer.bias.empty() ? 0.0f : layer.bias[static_cast<size_t>(c)];
        const float y = std::fmaf(static_cast<float>(acc), input.scale * layer.scale[static_cast<size_t>(c)], bias);
        uint8_t* at = want.data() + (r * n + c) * size;
        if (out16) {
          const double q = std::nearbyint(static_cast<double>(y * (1.0f / out.scale))) + out.zero_point;
          const uint16_t bits = static_cast<uint16_t>(q < 0 ? 0 : q > 65535 ? 65535 : q);
          std::memcpy(at, &bits, 2);
        } else {
          store_float(out, y, at);
        }
      }
    if (!same_everywhere(got, want, m, n * size, n * size, Side::end,
                         [&](void* c) { linear16(view, x, m, lda, c, n * size, out, out16, input); }))
      return;
  }
}

}  // namespace
}  // namespace test
}  // namespace qgemm
