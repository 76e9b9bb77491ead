// The u8 encoding of a row, from its least and greatest value: what dynamic quantization is made of. Internal linkage: each file
// that includes this is compiled for an ISA of its own.
#pragma once
#include <cfloat>
#include <cmath>
#include <cstdint>

namespace qgemm {

struct DynamicEncoding {
  float scale;
  int32_t zero_point;
};

// lo <= 0 <= hi, both finite.
//   asymmetric  scale = (hi - lo) / 255,       zero_point = rint(-lo / scale)
//   symmetric   scale = max(-lo, hi) / 127,    zero_point = 128
// All zeros: scale 1. A scale below the smallest normal float is raised to it, so that 1/scale is finite.
static inline DynamicEncoding encoding_of(float lo, float hi, bool symmetric) {
  if (lo == 0.0f && hi == 0.0f) return {1.0f, symmetric ? 128 : 0};
  float scale;
  if (symmetric) {
    scale = (-lo > hi ? -lo : hi) / 127.0f;
  } else {
    scale = (hi - lo) / 255.0f;
    if (!std::isfinite(scale)) scale = hi / 255.0f - lo / 255.0f;  // a range wider than fp32's largest number
  }
  if (scale < FLT_MIN) scale = FLT_MIN;
  if (symmetric) return {scale, 128};
  const float zp = std::nearbyintf(-lo / scale);
  return {scale, static_cast<int32_t>(zp < 255.0f ? zp : 255.0f)};
}

}  // namespace qgemm
