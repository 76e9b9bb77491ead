#include "ops/layout.h"

#include <cstring>
#include <string>

#include "cpu/error.h"
#include "ops/threads.h"

namespace qgemm {
namespace {

// 16 x 16 elements are whole cache lines of floats on both sides, and one vector a row of bytes.
constexpr int kTile = 16;

// Vectors of the compiler, 128 bits on every target: the same code for SSE2 and NEON.
typedef uint8_t bytes16 __attribute__((vector_size(16)));
typedef uint32_t words4 __attribute__((vector_size(16)));

template <class V>
inline V load(const void* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

// Element I of a and b laid end to end, for every I.
template <int... I, class V>
inline V shuffle(V a, V b) {
#ifdef __clang__
  return __builtin_shufflevector(a, b, I...);
#else  // GCC has the other name from version 12 on only
  return __builtin_shuffle(a, b, V{I...});
#endif
}

// Four rounds of interleaving row i with row i + 8 turn 16 rows of 16 bytes into their columns.
void tile(const uint8_t* x, int64_t ldx, uint8_t* y, int64_t ldy) {
  bytes16 a[kTile], b[kTile];
  for (int i = 0; i < kTile; ++i) a[i] = load<bytes16>(x + i * ldx);
  auto round = [](const bytes16* from, bytes16* to) {
    for (int i = 0; i < kTile / 2; ++i) {
      to[2 * i] = shuffle<0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23>(from[i], from[i + 8]);
      to[2 * i + 1] = shuffle<8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31>(from[i], from[i + 8]);
    }
  };
  round(a, b);
  round(b, a);
  round(a, b);
  round(b, a);
  for (int i = 0; i < kTile; ++i) std::memcpy(y + i * ldy, &a[i], sizeof a[i]);
}

void tile(const uint32_t* x, int64_t ldx, uint32_t* y, int64_t ldy) {
  for (int j = 0; j < kTile; j += 4)
    for (int i = 0; i < kTile; i += 4) {
      const uint32_t* from = x + i * ldx + j;
      const words4 r0 = load<words4>(from), r1 = load<words4>(from + ldx), r2 = load<words4>(from + 2 * ldx),
                   r3 = load<words4>(from + 3 * ldx);
      const words4 a = shuffle<0, 4, 1, 5>(r0, r1), b = shuffle<0, 4, 1, 5>(r2, r3), c = shuffle<2, 6, 3, 7>(r0, r1),
                   d = shuffle<2, 6, 3, 7>(r2, r3);
      const words4 columns[4] = {shuffle<0, 1, 4, 5>(a, b), shuffle<2, 3, 6, 7>(a, b), shuffle<0, 1, 4, 5>(c, d),
                                 shuffle<2, 3, 6, 7>(c, d)};
      for (int k = 0; k < 4; ++k) std::memcpy(y + (j + k) * ldy + i, &columns[k], sizeof columns[k]);
    }
}

template <class T>
void transpose_all(const T* x, int64_t batch, int64_t rows, int64_t columns, T* y) {
  const int64_t strips = (columns + kTile - 1) / kTile;
  const int64_t bytes = batch * rows * columns * static_cast<int64_t>(sizeof(T));
  parallel_shares(batch * strips, threads_for(bytes, kGrainBytes), [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s) {
      const int64_t j0 = s % strips * kTile, j1 = j0 + kTile < columns ? j0 + kTile : columns;
      const T* from = x + s / strips * rows * columns;
      T* to = y + s / strips * rows * columns;
      int64_t i = 0;
      if (j1 - j0 == kTile)
        for (; i + kTile <= rows; i += kTile) tile(from + i * columns + j0, columns, to + j0 * rows + i, rows);
      for (int64_t j = j0; j < j1; ++j)
        for (int64_t r = i; r < rows; ++r) to[j * rows + r] = from[r * columns + j];
    }
  });
}

}  // namespace

void transpose(const void* x, int64_t batch, int64_t rows, int64_t columns, size_t element_size, void* y) {
  if (batch == 0 || rows == 0 || columns == 0) return;
  if (element_size == 1)
    transpose_all(static_cast<const uint8_t*>(x), batch, rows, columns, static_cast<uint8_t*>(y));
  else if (element_size == 4)
    transpose_all(static_cast<const uint32_t*>(x), batch, rows, columns, static_cast<uint32_t*>(y));
  else
    throw Error(Code::dtype, "transpose takes elements of 1 or 4 bytes, got " + std::to_string(element_size));
}

}  // namespace qgemm
