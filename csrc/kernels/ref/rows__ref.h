// Elements of rows as real numbers, and real numbers stored as an Epilogue says.
#pragma once
#include <cmath>
#include <cstdint>

#include "kernels/api.h"

namespace qgemm {
namespace ref {

inline float real(const void* x, bool is_u8, float scale, int32_t zero_point, ptrdiff_t i) {
  if (!is_u8) return static_cast<const float*>(x)[i];
  return scale * static_cast<float>(static_cast<const uint8_t*>(x)[i] - zero_point);
}

// One NaN of all, so that paths agree on its bits; on a grid NaN is the zero point.
inline void store_real(const Epilogue& e, float y, ptrdiff_t i, void* out) {
  const bool nan = std::isnan(y);
  if (e.out == OutType::f32) {
    static_cast<float*>(out)[i] = nan ? NAN : y;
    return;
  }
  float t = y * e.inv_scale;
  const float lo = static_cast<float>(e.lo - e.zero_point), hi = static_cast<float>(e.hi - e.zero_point);
  t = nan || std::isnan(t) ? 0.0f : t;
  t = t > hi ? hi : t;
  t = t < lo ? lo : t;
  const int q = static_cast<int>(std::nearbyintf(t)) + e.zero_point;
  static_cast<uint8_t*>(out)[i] = static_cast<uint8_t>(e.out == OutType::s8 ? q ^ 0x80 : q);
}

}  // namespace ref
}  // namespace qgemm
