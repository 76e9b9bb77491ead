// Changes of memory order, which convolutions and pools need at the edges of a model that is not channels-last.
#pragma once
#include <cstddef>
#include <cstdint>

namespace qgemm {

// y[b][j][i] = x[b][i][j], elements of 1 or 4 bytes: NCHW -> NHWC is rows = C, columns = H * W, and back is the other way round.
void transpose(const void* x, int64_t batch, int64_t rows, int64_t columns, size_t element_size, void* y);

}  // namespace qgemm
