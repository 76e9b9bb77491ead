// Bytes from place to place: what is left of reshapes, concatenations, paddings and gathers once their indices are known.
#pragma once
#include <cstdint>
#include <vector>

namespace qgemm {

// An array of `rank` axes, each with a size and a stride in bytes.
struct Strided {
  static constexpr int kMaxRank = 8;
  int rank = 0;
  int64_t element = 1;  // bytes
  int64_t shape[kMaxRank] = {}, stride[kMaxRank] = {};
};

// The same array in as few axes as possible: axes of one element are dropped, neighbours that follow each other are joined.
Strided simplified(const Strided& s);

// y (C-contiguous) = x, seen as `s` (simplified). Elements of 1, 2, 4 or 8 bytes.
void copy_strided(const void* x, const Strided& s, void* y);

// `count` pieces of `bytes` each, the next ones a step further on both sides.
struct CopyRun {
  int64_t from, to, bytes, count, from_step, to_step;
};

void copy_runs(const void* x, void* y, const std::vector<CopyRun>& runs);

// y[outer][count][bytes] = x[outer][rows][bytes] at the `count` indices of int64 (wide) or int32; a negative one counts from the
// end. Throws Error(shape) for an index outside the rows, with y partly written.
void take(const void* x, int64_t outer, int64_t rows, int64_t bytes, const void* index, bool wide, int64_t count, void* y);

// Runs of one byte value: bytes [to, to + bytes), count times.
void fill_runs(void* y, uint8_t value, const std::vector<CopyRun>& runs);

}  // namespace qgemm
