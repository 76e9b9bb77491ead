// fp32 <-> integers on a grid: static encodings per tensor or per channel, encodings computed from the data, and 4-bit storage.
#pragma once
#include <cstddef>
#include <cstdint>

#include "cpu/dispatch.h"

namespace qgemm {

// An array seen as [outer][channels][inner]; channels is 1 for one encoding per tensor.
struct ChannelShape {
  int64_t outer, channels, inner;
};

// The integers' storage: 1 or 2 bytes, signed or not.
struct IntType {
  int bytes;
  bool is_signed;
};

// q = clamp(rint(x * (1/scale)) + zero_point, qmin, qmax). scale, zero_point: [channels]. Throws Error(quantization) for a scale
// that is not finite and positive, a zero point outside [qmin, qmax], or bounds outside the type.
void quantize(const float* x, void* q, IntType type, const ChannelShape& shape, const float* scale, const int32_t* zero_point,
              int64_t qmin, int64_t qmax);
// x = (q - zero_point) * scale
void dequantize(const void* q, float* x, IntType type, const ChannelShape& shape, const float* scale, const int32_t* zero_point);

// u8 with an encoding from the data (kernels/encoding.h): one a row of x ([m] rows of k floats, ldx floats apart), or one for
// all. q: [m][k] contiguous; scale, zero_point: [m] or [1]. Throws Error(quantization) for NaN or infinity in x.
void quantize_dynamic(const float* x, int64_t m, int64_t k, ptrdiff_t ldx, uint8_t* q, float* scale, int32_t* zero_point,
                      bool per_row, bool symmetric);

// The same a row, on this thread. -1, or the first row with a NaN or an infinity: then say so by row_not_finite.
int64_t quantize_rows(const KernelTable& t, const float* x, int64_t m, int64_t k, ptrdiff_t ldx, uint8_t* q, float* scale,
                      int32_t* zero_point, bool symmetric);
[[noreturn]] void row_not_finite(int64_t row);

// Rows of `length` values of -8..7 or 0..15, two a byte, low nibble first; an odd row's last high nibble is 0.
void pack_int4(const int8_t* values, int64_t rows, int64_t length, uint8_t* packed);
void unpack_int4(const uint8_t* packed, int64_t rows, int64_t length, bool is_signed, int8_t* values);

}  // namespace qgemm
