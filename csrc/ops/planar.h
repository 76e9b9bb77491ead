// Images from the outside world: fp32 planes [batch][channels][pixels] to u8 pixels [batch][pixels][channels], in one pass.
#pragma once
#include <cstdint>

namespace qgemm {

// q = clamp(rint(x * (1/scale)) + zero_point, 0, qmax). Throws Error(quantization) as quantize() does.
void quantize_planes(const float* x, int64_t batch, int64_t channels, int64_t pixels, float scale, int32_t zero_point,
                     int32_t qmax, uint8_t* q);

}  // namespace qgemm
