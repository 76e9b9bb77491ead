#include "ops/move.h"

#include <cstring>
#include <string>

#include "cpu/error.h"
#include "ops/layout.h"
#include "ops/threads.h"

namespace qgemm {
namespace {

// One row of `n` elements, `stride` bytes apart.
template <class T>
void gather_row(const char* x, int64_t n, int64_t stride, char* y) {
  for (int64_t i = 0; i < n; ++i) std::memcpy(y + i * static_cast<int64_t>(sizeof(T)), x + i * stride, sizeof(T));
}

void row(const char* x, int64_t n, int64_t stride, int64_t element, char* y) {
  if (stride == element)
    std::memcpy(y, x, static_cast<size_t>(n * element));
  else if (element == 1)
    gather_row<uint8_t>(x, n, stride, y);
  else if (element == 2)
    gather_row<uint16_t>(x, n, stride, y);
  else if (element == 4)
    gather_row<uint32_t>(x, n, stride, y);
  else
    gather_row<uint64_t>(x, n, stride, y);
}

// A fixed-size copy is a few instructions; a call of memcpy for 3 bytes is not.
template <int N>
void pieces(const char* x, char* y, const CopyRun& r) {
  for (int64_t i = 0; i < r.count; ++i) std::memcpy(y + i * r.to_step, x + i * r.from_step, N);
}

}  // namespace

Strided simplified(const Strided& s) {
  Strided r;
  r.element = s.element;
  for (int i = 0; i < s.rank; ++i) {
    if (s.shape[i] == 1) continue;
    if (r.rank > 0 && r.stride[r.rank - 1] == s.stride[i] * s.shape[i]) {
      r.shape[r.rank - 1] *= s.shape[i];
      r.stride[r.rank - 1] = s.stride[i];
    } else {
      r.shape[r.rank] = s.shape[i];
      r.stride[r.rank++] = s.stride[i];
    }
  }
  if (r.rank == 0) {
    r.rank = 1;
    r.shape[0] = 1;
    r.stride[0] = s.element;
  }
  return r;
}

void copy_strided(const void* x, const Strided& s, void* y) {
  const auto* from = static_cast<const char*>(x);
  auto* to = static_cast<char*>(y);
  const int last = s.rank - 1;
  // [batch][rows][columns] with rows inside columns in memory: a transposition of whole tiles.
  if ((s.element == 1 || s.element == 4) && s.rank >= 2 && s.rank <= 3 && s.stride[last - 1] == s.element &&
      s.stride[last] == s.element * s.shape[last - 1] && (s.rank == 2 || s.stride[0] == s.element * s.shape[1] * s.shape[2])) {
    transpose(from, s.rank == 3 ? s.shape[0] : 1, s.shape[last], s.shape[last - 1], static_cast<size_t>(s.element), to);
    return;
  }
  int64_t rows = 1;
  for (int i = 0; i < last; ++i) rows *= s.shape[i];
  const int64_t length = s.shape[last], row_bytes = length * s.element;
  const int threads = threads_for(rows * row_bytes, kGrainBytes);
  if (rows == 1 && s.stride[last] == s.element) {
    parallel_shares(row_bytes, threads, [&](int64_t b, int64_t e) { std::memcpy(to + b, from + b, static_cast<size_t>(e - b)); });
    return;
  }
  parallel_shares(rows, threads, [&](int64_t begin, int64_t end) {
    int64_t index[Strided::kMaxRank] = {}, offset = 0;
    for (int64_t left = begin, i = last - 1; i >= 0; --i) {
      index[i] = left % s.shape[i];
      left /= s.shape[i];
      offset += index[i] * s.stride[i];
    }
    for (int64_t r = begin; r < end; ++r) {
      row(from + offset, length, s.stride[last], s.element, to + r * row_bytes);
      for (int i = last - 1; i >= 0; --i) {
        offset += s.stride[i];
        if (++index[i] < s.shape[i]) break;
        offset -= index[i] * s.stride[i];
        index[i] = 0;
      }
    }
  });
}

void copy_runs(const void* x, void* y, const std::vector<CopyRun>& runs) {
  int64_t bytes = 0;
  for (const CopyRun& r : runs) bytes += r.bytes * r.count;
  const auto n = static_cast<int64_t>(runs.size());
  auto one = [&](const CopyRun& r) {
    const char* from = static_cast<const char*>(x) + r.from;
    char* to = static_cast<char*>(y) + r.to;
    switch (r.bytes) {
      case 1:
        return pieces<1>(from, to, r);
      case 2:
        return pieces<2>(from, to, r);
      case 3:
        return pieces<3>(from, to, r);
      case 4:
        return pieces<4>(from, to, r);
      case 8:
        return pieces<8>(from, to, r);
      default:
        for (int64_t i = 0; i < r.count; ++i)
          std::memcpy(to + i * r.to_step, from + i * r.from_step, static_cast<size_t>(r.bytes));
    }
  };
  const int threads = threads_for(bytes, kGrainBytes);
  if (n >= 2 * threads) {
    parallel_shares(n, threads, [&](int64_t b, int64_t e) {
      for (int64_t i = b; i < e; ++i) one(runs[static_cast<size_t>(i)]);
    });
    return;
  }
  for (const CopyRun& r : runs)
    parallel_shares(r.count, r.count >= threads ? threads : 1, [&](int64_t b, int64_t e) {
      one({r.from + b * r.from_step, r.to + b * r.to_step, r.bytes, e - b, r.from_step, r.to_step});
    });
}

void take(const void* x, int64_t outer, int64_t rows, int64_t bytes, const void* index, bool wide, int64_t count, void* y) {
  for (int64_t i = 0; i < count; ++i) {
    const int64_t given = wide ? static_cast<const int64_t*>(index)[i] : static_cast<const int32_t*>(index)[i];
    if (given < -rows || given >= rows)
      throw Error(Code::shape, "an index of " + std::to_string(given) + " is outside an axis of size " + std::to_string(rows));
    const int64_t at = given < 0 ? given + rows : given;
    for (int64_t o = 0; o < outer; ++o)
      std::memcpy(static_cast<char*>(y) + (o * count + i) * bytes, static_cast<const char*>(x) + (o * rows + at) * bytes,
                  static_cast<size_t>(bytes));
  }
}

void fill_runs(void* y, uint8_t value, const std::vector<CopyRun>& runs) {
  for (const CopyRun& r : runs)
    for (int64_t i = 0; i < r.count; ++i)
      std::memset(static_cast<char*>(y) + r.to + i * r.to_step, value, static_cast<size_t>(r.bytes));
}

}  // namespace qgemm
