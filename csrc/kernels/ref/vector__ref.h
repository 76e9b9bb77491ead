// The vector type of kernels/elementary.h: one float.
#pragma once
#include <cmath>

#include "kernels/api.h"

namespace qgemm {
namespace ref {

struct V {
  static constexpr int width = 1;
  float v;
  static V set(float x) { return {x}; }
  static V constant(float x) { return {x}; }
  static V load(const float* p) { return {*p}; }
  static V load(const float* p, int) { return {*p}; }
};

inline void store(float* p, V a) { *p = a.v; }
inline void store(float* p, V a, int) { *p = a.v; }
inline V operator+(V a, V b) { return {a.v + b.v}; }
inline V operator-(V a, V b) { return {a.v - b.v}; }
inline V operator*(V a, V b) { return {a.v * b.v}; }
inline V operator/(V a, V b) { return {a.v / b.v}; }
inline V fma(V a, V b, V c) { return {std::fmaf(a.v, b.v, c.v)}; }
inline V fnma(V a, V b, V c) { return {std::fmaf(-a.v, b.v, c.v)}; }
inline V sqrt(V a) { return {std::sqrt(a.v)}; }
inline V abs(V a) { return {std::fabs(a.v)}; }
inline V negate(V a) { return {-a.v}; }
inline V round(V a) { return {std::nearbyintf(a.v)}; }
inline V floor(V a) { return {std::floor(a.v)}; }
inline V ceil(V a) { return {std::ceil(a.v)}; }
inline V sign_of(V a, V b) { return {std::copysign(a.v, b.v)}; }
inline V scale2(V p, V n) { return {std::isnan(n.v) ? n.v : std::ldexp(p.v, static_cast<int>(n.v))}; }
inline bool lt(V a, V b) { return a.v < b.v; }
inline bool equal(V a, V b) { return a.v == b.v; }
inline bool unordered(V a, V b) { return std::isnan(a.v) || std::isnan(b.v); }
inline V blend(bool m, V yes, V no) { return m ? yes : no; }

}  // namespace ref
}  // namespace qgemm
