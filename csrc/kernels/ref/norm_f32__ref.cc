#include <cmath>

#include "kernels/ref/rows__ref.h"

namespace qgemm {
namespace ref {

namespace {

struct Lanes {
  double lane[16] = {};
  double sum() {
    for (int width = 8; width > 0; width /= 2)
      for (int j = 0; j < width; ++j) lane[j] += lane[j + width];
    return lane[0];
  }
};

void bytes_row(const norm_args& g, const uint8_t* x, void* out) {
  const double n = static_cast<double>(g.n), s = g.x_scale;
  int64_t sum = 0, squares = 0;
  for (ptrdiff_t i = 0; i < g.n; ++i) {
    const int64_t q = x[i];
    sum += q;
    squares += q * q;
  }
  float a, m, c;
  if (g.center) {
    const double v = s * s * (static_cast<double>(g.n * squares - sum * sum) / (n * n));
    a = static_cast<float>(s / (n * std::sqrt(v + g.epsilon)));
    m = static_cast<float>(g.n);
    c = static_cast<float>(-sum);
  } else {
    const int64_t z = g.x_zero_point;
    const double v = s * s * (static_cast<double>(squares - 2 * z * sum + g.n * z * z) / n);
    a = static_cast<float>(s / std::sqrt(v + g.epsilon));
    m = 1.0f;
    c = static_cast<float>(-g.x_zero_point);
  }
  for (ptrdiff_t i = 0; i < g.n; ++i) {
    const float d = std::fmaf(static_cast<float>(x[i]), m, c);
    store_real(*g.ep, std::fmaf(d * a, g.gamma[i], g.beta[i]), i, out);
  }
}

void floats_row(const norm_args& g, const float* x, void* out) {
  const double n = static_cast<double>(g.n);
  double mean = 0;
  if (g.center) {
    Lanes sum;
    for (ptrdiff_t i = 0; i < g.n; ++i) sum.lane[i % 16] += static_cast<double>(x[i]);
    mean = sum.sum() / n;
  }
  const float m = static_cast<float>(mean);
  Lanes squares;
  for (ptrdiff_t i = 0; i < g.n; ++i) {
    const double d = static_cast<double>(x[i] - m);
    squares.lane[i % 16] = std::fma(d, d, squares.lane[i % 16]);
  }
  const double rest = mean - static_cast<double>(m);
  double v = squares.sum() / n - rest * rest;
  v = v < 0 ? 0 : v;
  const double a = 1.0 / std::sqrt(v + g.epsilon);
  const float af = static_cast<float>(a), c = static_cast<float>(-rest * a);
  for (ptrdiff_t i = 0; i < g.n; ++i) store_real(*g.ep, std::fmaf(std::fmaf(x[i] - m, af, c), g.gamma[i], g.beta[i]), i, out);
}

}  // namespace

void norm_f32_1x1(const norm_args& g) {
  for (ptrdiff_t row = 0; row < g.rows; ++row) {
    const char* x = static_cast<const char*>(g.x) + row * g.ldx;
    void* out = static_cast<char*>(g.out) + row * g.ldo;
    if (g.is_u8)
      bytes_row(g, reinterpret_cast<const uint8_t*>(x), out);
    else
      floats_row(g, reinterpret_cast<const float*>(x), out);
  }
}

}  // namespace ref
}  // namespace qgemm
