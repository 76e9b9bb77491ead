#include "driver_case.h"

#include <omp.h>

#include "ops/threads.h"

namespace qgemm {
namespace test {
namespace {

int32_t wrap(int64_t v) {
  const uint32_t u = static_cast<uint32_t>(static_cast<uint64_t>(v));
  int32_t r;
  std::memcpy(&r, &u, 4);
  return r;
}

}  // namespace

void Layer::fill_values(Rng& rng, int64_t n, int64_t k, bool zero_points, int64_t scale_count) {
  const int lo = spec.bits == 4 ? -8 : -128, hi = spec.bits == 4 ? 7 : 127;
  weight.resize(static_cast<size_t>(n * k));
  fill(rng, any_mood(rng), weight.data(), n * k, lo, hi);
  scale.resize(static_cast<size_t>(scale_count));
  const float unit = rng.pick({1.0f, 0.5f, 0.01f});
  for (float& s : scale) s = unit == 0.5f ? unit : rng.uniform(0.01f, 1) * unit;
  bias.resize(rng.chance(60) ? static_cast<size_t>(n) : 0);
  for (float& b : bias) b = rng.uniform(-50, 50);
  zero_point.resize(zero_points ? static_cast<size_t>(n) : 0);
  for (int32_t& z : zero_point) z = static_cast<int32_t>(rng.pick<int64_t>({lo, hi, 0, rng.between(lo, hi)}));
  bias_int32.resize(rng.chance(20) ? static_cast<size_t>(n) : 0);
  for (int32_t& b : bias_int32) b = static_cast<int32_t>(rng.between(-100000, 100000));
  spec.n = n;
  spec.weight = weight.data();
  spec.scale = scale.data();
  spec.scale_count = scale_count;
  spec.bias = bias.empty() ? nullptr : bias.data();
  spec.zero_point = zero_point.empty() ? nullptr : zero_point.data();
  spec.bias_int32 = bias_int32.empty() ? nullptr : bias_int32.data();
}

PackedView Layer::pack_into(Guarded& memory) const {
  const int64_t bytes = packed_bytes(spec);
  uint8_t* p = memory.place<uint8_t>(static_cast<size_t>(bytes), Side::end);
  pack(spec, p);
  return view(p, bytes);
}

OutputSpec any_output(Rng& rng, double size, bool s32) {
  OutputSpec o;
  o.type = static_cast<OutType>(rng.between(0, 3));
  if (o.type == OutType::s32 && !s32) o.type = OutType::f32;
  o.scale = rng.chance(20) ? 0.5f : rng.chance(10) ? 1e-20f : static_cast<float>(size / 100) * rng.uniform(0.2f, 2);
  o.zero_point = static_cast<int32_t>(rng.pick<int64_t>({0, 128, 255, rng.between(0, 255)}));
  o.lo = rng.chance(60) ? 0 : o.zero_point;
  o.hi = rng.chance(70) ? 255 : static_cast<int32_t>(rng.between(o.lo, 255));
  const bool bounded = rng.chance(40);
  o.f_lo = bounded ? 0.0f : -INFINITY;
  o.f_hi = bounded ? 6.0f : INFINITY;
  return o;
}

void store_float(const OutputSpec& out, float y, void* c) {
  if (out.type == OutType::f32) {
    y = y > out.f_lo ? y : out.f_lo;
    y = y < out.f_hi ? y : out.f_hi;
    std::memcpy(c, &y, 4);
    return;
  }
  const double t = std::nearbyint(static_cast<double>(y * (1.0f / out.scale))) + out.zero_point;
  const int q = static_cast<int>(t < out.lo ? out.lo : t > out.hi ? out.hi : t);
  *static_cast<uint8_t*>(c) = static_cast<uint8_t>(out.type == OutType::s8 ? q ^ 0x80 : q);
}

void store_exact(const OutputSpec& out, int64_t acc, float scale, float bias, void* c) {
  const int32_t exact = wrap(acc);
  if (out.type == OutType::s32)
    std::memcpy(c, &exact, 4);
  else
    store_float(out, std::fmaf(static_cast<float>(exact), scale, bias), c);
}

bool same_everywhere(Output& got, const std::vector<uint8_t>& want, int64_t rows, int64_t row_bytes, int64_t ld, Side side,
                     const std::function<void(void*)>& call) {
  for (Isa isa : runnable_isas()) {
    Forced forced(isa);
    for (int threads : {1, 2}) {
      omp_set_num_threads(threads);
      grain_divisor = threads > 1 ? int64_t(1) << 40 : 1;  // a product of any size is shared, not only a large one
      uint8_t* c = got.place(rows, row_bytes, ld, side);
      call(c);
      if (!got.margins_intact()) {
        ADD_FAILURE() << isa_name(isa) << ", " << threads << " threads wrote outside the output: " << current_case();
        return false;
      }
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t i = 0; i < row_bytes; ++i)
          if (got.row(r)[i] != want[static_cast<size_t>(r * row_bytes + i)]) {
            ADD_FAILURE() << isa_name(isa) << ", " << threads << " threads, row " << r << ", byte " << i << ": "
                          << int(got.row(r)[i]) << ", the definition gives " << int(want[static_cast<size_t>(r * row_bytes + i)])
                          << ": " << current_case();
            return false;
          }
    }
  }
  return true;
}

}  // namespace test
}  // namespace qgemm
