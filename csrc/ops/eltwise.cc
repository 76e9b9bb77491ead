#include "ops/eltwise.h"

#include <cmath>
#include <string>

#include "cpu/error.h"
#include "ops/threads.h"

namespace qgemm {
namespace {

// f(first, count) on shares that start at multiples of 64 elements.
template <class F>
void share_elements(int64_t n, F&& f) {
  const int64_t blocks = (n + 63) / 64;
  parallel_shares(blocks, threads_for(n, kGrainBytes),
                  [&](int64_t b, int64_t e) { f(b * 64, (e * 64 < n ? e * 64 : n) - b * 64); });
}

}  // namespace

void check_encoding(const char* what, double scale, int64_t zero_point) {
  const float s = static_cast<float>(scale);
  if (!(std::isfinite(s) && s > 0))
    throw Error(Code::quantization, std::string(what) + "_scale must be finite and > 0 in float32, got " + std::to_string(scale) +
                                        "; recalibrate its quantizer");
  if (zero_point < 0 || zero_point > 255)
    throw Error(Code::quantization, std::string(what) + "_zero_point must lie in 0..255, got " + std::to_string(zero_point));
}

void add(const uint8_t* a, const Encoding8& ea, const uint8_t* b, const Encoding8& eb, uint8_t* c, int64_t n,
         const OutputSpec& out) {
  const KernelTable& t = table();
  share_elements(n, [&](int64_t first, int64_t count) {
    add_args g{};
    g.a = a + first;
    g.b = b + first;
    g.out = c + first;
    g.n = static_cast<ptrdiff_t>(count);
    g.a_scale = ea.scale;
    g.b_scale = eb.scale;
    g.inv_scale = 1.0f / out.scale;
    g.a_zero_point = ea.zero_point;
    g.b_zero_point = eb.zero_point;
    g.zero_point = out.zero_point;
    g.lo = out.lo;
    g.hi = out.hi;
    t.add(g);
  });
}

void lut(const uint8_t* x, const uint8_t* table256, uint8_t* y, int64_t n) {
  const KernelTable& t = table();
  share_elements(n, [&](int64_t first, int64_t count) {
    t.lut({x + first, table256, y + first, static_cast<ptrdiff_t>(count)});
  });
}

}  // namespace qgemm
