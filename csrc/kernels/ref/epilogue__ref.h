// The arithmetic of docs/numerics.md, one output at a time.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/api.h"

namespace qgemm {
namespace ref {

// Low 32 bits: int32 wrap-around without undefined behaviour.
inline int32_t wrap(int64_t v) {
  const uint32_t u = static_cast<uint32_t>(static_cast<uint64_t>(v));
  int32_t r;
  std::memcpy(&r, &u, 4);
  return r;
}

inline int32_t correct(const Epilogue& e, int64_t acc, int row, int col) {
  acc += e.correction[col];
  if (e.row_zero_point) acc -= static_cast<int64_t>(e.row_zero_point[row]) * e.colsum[col];
  if (e.row_sum) acc -= static_cast<int64_t>(e.row_sum[row]) * e.w_zero_point[col];
  if (e.row_term) acc += e.row_term[row];
  return wrap(acc);
}

inline float to_float(const Epilogue& e, int32_t acc, int row, int col) {
  const float scale = e.row_scale ? e.scale[col] * e.row_scale[row] : e.scale[col];
  return std::fmaf(static_cast<float>(acc), scale, e.bias[col]);
}

// clamp(rint(y * inv_scale) + zero_point, lo, hi) on the u8 grid. Clamping to integers before rint gives the same integer.
inline uint8_t requantize(const Epilogue& e, float y) {
  const float lo = static_cast<float>(e.lo - e.zero_point), hi = static_cast<float>(e.hi - e.zero_point);
  float t = y * e.inv_scale;
  t = t > hi ? hi : t;
  t = t < lo ? lo : t;
  const int q = static_cast<int>(std::nearbyintf(t)) + e.zero_point;
  return static_cast<uint8_t>(e.out == OutType::s8 ? q ^ 0x80 : q);
}

inline void store_float(const Epilogue& e, float y, int n, void* c) {
  if (e.out == OutType::f32) {
    y = y > e.f_lo ? y : e.f_lo;
    y = y < e.f_hi ? y : e.f_hi;
    static_cast<float*>(c)[n] = y;
  } else {
    static_cast<uint8_t*>(c)[n] = requantize(e, y);
  }
}

inline void store(const Epilogue& e, int64_t sum, int row, int col, int n, void* c) {
  const int32_t acc = correct(e, sum, row, col);
  if (e.out == OutType::s32) {
    static_cast<int32_t*>(c)[n] = acc;
  } else if (e.out == OutType::f32_accumulate) {
    float* p = static_cast<float*>(c) + n;
    *p = std::fmaf(static_cast<float>(acc), e.scale[col], *p);
  } else {
    store_float(e, to_float(e, acc, row, col), n, c);
  }
}

}  // namespace ref
}  // namespace qgemm
