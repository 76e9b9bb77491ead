#include "ops/rows.h"

#include <cmath>
#include <string>

#include "cpu/error.h"
#include "ops/threads.h"

namespace qgemm {
namespace {

// Elements for which a second thread pays: about as much time as kGrainMacs multiply-adds take.
constexpr int64_t kGrain = int64_t(1) << 13;

Epilogue epilogue_of(const OutputSpec& spec) {
  Epilogue e{};
  e.inv_scale = 1.0f / spec.scale;
  e.zero_point = spec.zero_point;
  e.lo = spec.lo;
  e.hi = spec.hi;
  e.out = spec.type;
  return e;
}

void check(const char* op, int64_t n, const OutputSpec& spec) {
  // n^2 * 255^2, the largest sum of the exact variance, fits int64.
  if (n > (int64_t(1) << 23))
    throw Error(Code::shape,
                std::string(op) + ": rows of " + std::to_string(n) + " elements are longer than 2^23; reduce in parts");
  if (spec.type != OutType::u8 && spec.type != OutType::s8 && spec.type != OutType::f32)
    throw Error(Code::dtype, std::string(op) + ": the output must be uint8, int8 or float32");
}

}  // namespace

void softmax(const RowInput& x, int64_t rows, int64_t n, const Mask& mask, void* out, const OutputSpec& spec) {
  check("softmax", n, spec);
  if (rows == 0 || n == 0) return;
  const KernelTable& t = table();
  const Epilogue e = epilogue_of(spec);
  const int64_t in_bytes = n * (x.is_u8 ? 1 : 4), out_bytes = n * static_cast<int64_t>(out_size(spec.type));
  parallel_shares(rows, threads_for(rows * n, kGrain), [&](int64_t begin, int64_t end) {
    static thread_local Scratch<float> scratch;
    softmax_args g{};
    g.is_u8 = x.is_u8;
    g.x_scale = x.encoding.scale;
    g.x_zero_point = x.encoding.zero_point;
    g.n = static_cast<ptrdiff_t>(n);
    g.ldx = static_cast<ptrdiff_t>(in_bytes);
    g.ldo = static_cast<ptrdiff_t>(out_bytes);
    g.scratch = scratch.get(2 * ((n + 63) / 64 * 64));
    g.ep = &e;
    while (begin < end) {
      int64_t run = end - begin;
      if (mask.data) {  // rows of one (i, j) are evenly spaced in the mask
        const int64_t k = begin % mask.d2, j = begin / mask.d2 % mask.d1, i = begin / mask.d2 / mask.d1;
        if (run > mask.d2 - k) run = mask.d2 - k;
        g.mask = mask.data + i * mask.s0 + j * mask.s1 + k * mask.s2;
        g.ldmask = static_cast<ptrdiff_t>(mask.s2);
      }
      g.x = static_cast<const char*>(x.data) + begin * in_bytes;
      g.out = static_cast<char*>(out) + begin * out_bytes;
      g.rows = static_cast<ptrdiff_t>(run);
      t.softmax(g);
      begin += run;
    }
  });
}

void norm(const RowInput& x, int64_t rows, int64_t n, bool center, double epsilon, const float* gamma, const float* beta,
          void* out, const OutputSpec& spec) {
  check("norm", n, spec);
  if (!(std::isfinite(epsilon) && epsilon >= 0))
    throw Error(Code::quantization, "norm: epsilon must be finite and >= 0, got " + std::to_string(epsilon));
  if (rows == 0 || n == 0) return;
  static thread_local Scratch<float> neutral;
  if (!gamma || !beta) {
    float* p = neutral.get(2 * n);
    for (int64_t i = 0; i < n; ++i) p[i] = 1.0f, p[n + i] = 0.0f;
    if (!gamma) gamma = p;
    if (!beta) beta = p + n;
  }
  const KernelTable& t = table();
  const Epilogue e = epilogue_of(spec);
  const int64_t in_bytes = n * (x.is_u8 ? 1 : 4), out_bytes = n * static_cast<int64_t>(out_size(spec.type));
  parallel_shares(rows, threads_for(rows * n, kGrain), [&](int64_t begin, int64_t end) {
    norm_args g{};
    g.x = static_cast<const char*>(x.data) + begin * in_bytes;
    g.ldx = static_cast<ptrdiff_t>(in_bytes);
    g.is_u8 = x.is_u8;
    g.center = center;
    g.x_scale = x.encoding.scale;
    g.x_zero_point = x.encoding.zero_point;
    g.rows = static_cast<ptrdiff_t>(end - begin);
    g.n = static_cast<ptrdiff_t>(n);
    g.epsilon = epsilon;
    g.gamma = gamma;
    g.beta = beta;
    g.ep = &e;
    g.out = static_cast<char*>(out) + begin * out_bytes;
    g.ldo = static_cast<ptrdiff_t>(out_bytes);
    t.norm(g);
  });
}

}  // namespace qgemm
