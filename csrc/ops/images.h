// Moves and interpolation of NHWC u8 images.
#pragma once
#include <cstdint>

#include "ops/eltwise.h"
#include "ops/gemm.h"

namespace qgemm {

struct ImageShape {
  int64_t batch, h, w, c;
};

// out[b][y][x] = x[b][ys[y]][xs[x]], out: [batch][oh][ow][c]. Indices must lie in the image.
void resize_nearest(const uint8_t* x, const ImageShape& s, int64_t oh, int64_t ow, const int32_t* ys, const int32_t* xs,
                    uint8_t* out);

// One axis of a linear interpolation: position i lies between inputs lo[i] and hi[i], t[i] of the way; 0 <= t <= 1.
struct LinearAxis {
  int64_t n;
  const int32_t *lo, *hi;
  const float* t;
};
// Rows first, then columns, in fp32: with x = fl(scale * (q - zero_point)), r = fl(fl(x_lo * fl(1 - t)) + fl(x_hi * t)) along
// height, the same along width, requantized as `out` says (u8).
void resize_linear(const uint8_t* x, const ImageShape& s, const Encoding8& e, const LinearAxis& y, const LinearAxis& w,
                   uint8_t* out, const OutputSpec& spec);

// Constant padding by whole pixels of `value`. out: [batch][top + h + bottom][left + w + right][c].
void pad_image(const uint8_t* x, const ImageShape& s, int64_t top, int64_t left, int64_t bottom, int64_t right, uint8_t value,
               uint8_t* out);

// Blocks of channels become block x block pixels: out [batch][h * block][w * block][c / block^2]. Input channel (sy * block + sx)
// * n + k (channels_first: false; ONNX's DCR) or (k * block + sy) * block + sx (true; CRD, torch's pixel_shuffle) is channel k of
// pixel (sy, sx).
void depth_to_space(const uint8_t* x, const ImageShape& s, int64_t block, bool channels_first, uint8_t* out);

// The inverse: blocks of block x block pixels become one, out [batch][h / block][w / block][c * block^2], in either order of
// channels (true: torch's pixel_unshuffle). h and w must be multiples of block.
void space_to_depth(const uint8_t* x, const ImageShape& s, int64_t block, bool channels_first, uint8_t* out);

// out[pixel][j] = x[pixel][index[j]]: a channel shuffle, for example.
void permute_channels(const uint8_t* x, int64_t pixels, int64_t c, const int32_t* index, uint8_t* out);

}  // namespace qgemm
