#include "ops/planar.h"

#include <cmath>
#include <cstring>

#include "cpu/dispatch.h"
#include "cpu/error.h"
#include "ops/layout.h"
#include "ops/quantize.h"
#include "ops/threads.h"

namespace qgemm {
namespace {

// Pixels quantized at a time: their bytes are still in L1 when they are interleaved.
constexpr int64_t kChunk = 1024;

typedef uint8_t bytes16 __attribute__((vector_size(16)));

template <int... I>
inline bytes16 shuffle(bytes16 a, bytes16 b) {
#ifdef __clang__
  return __builtin_shufflevector(a, b, I...);
#else
  return __builtin_shuffle(a, b, bytes16{I...});
#endif
}

// to[3 * i + c] = from[c][i]: 16 pixels are three vectors, each of two shuffles.
void interleave3(const uint8_t* from, int64_t ld, int64_t n, uint8_t* to) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    bytes16 r, g, b;
    std::memcpy(&r, from + i, 16);
    std::memcpy(&g, from + ld + i, 16);
    std::memcpy(&b, from + 2 * ld + i, 16);
    bytes16 rg = shuffle<0, 16, 0, 1, 17, 0, 2, 18, 0, 3, 19, 0, 4, 20, 0, 5>(r, g);
    const bytes16 first = shuffle<0, 1, 16, 3, 4, 17, 6, 7, 18, 9, 10, 19, 12, 13, 20, 15>(rg, b);
    rg = shuffle<21, 0, 6, 22, 0, 7, 23, 0, 8, 24, 0, 9, 25, 0, 10, 26>(r, g);
    const bytes16 second = shuffle<0, 21, 2, 3, 22, 5, 6, 23, 8, 9, 24, 11, 12, 25, 14, 15>(rg, b);
    rg = shuffle<0, 11, 27, 0, 12, 28, 0, 13, 29, 0, 14, 30, 0, 15, 31, 0>(r, g);
    const bytes16 third = shuffle<26, 1, 2, 27, 4, 5, 28, 7, 8, 29, 10, 11, 30, 13, 14, 31>(rg, b);
    std::memcpy(to + 3 * i, &first, 16);
    std::memcpy(to + 3 * i + 16, &second, 16);
    std::memcpy(to + 3 * i + 32, &third, 16);
  }
  for (; i < n; ++i)
    for (int64_t c = 0; c < 3; ++c) to[3 * i + c] = from[c * ld + i];
}

}  // namespace

void quantize_planes(const float* x, int64_t batch, int64_t channels, int64_t pixels, float scale, int32_t zero_point,
                     int32_t qmax, uint8_t* q) {
  if (batch * channels * pixels == 0) return;
  if (channels == 1) return quantize(x, q, {1, false}, {1, 1, batch * pixels}, &scale, &zero_point, 0, qmax);
  // Checks the encoding; there is nothing to quantize yet.
  quantize(x, q, {1, false}, {1, 1, 0}, &scale, &zero_point, 0, qmax);
  const KernelTable& t = table();
  const int64_t chunks = (pixels + kChunk - 1) / kChunk;
  parallel_shares(batch * chunks, threads_for(batch * channels * pixels, kGrainBytes), [&](int64_t begin, int64_t end) {
    static thread_local Scratch<uint8_t> scratch;
    uint8_t* planes = scratch.get(channels * kChunk);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i % chunks * kChunk, n = pixels - first < kChunk ? pixels - first : kChunk;
      const float* from = x + i / chunks * channels * pixels + first;
      uint8_t* to = q + (i / chunks * pixels + first) * channels;
      for (int64_t c = 0; c < channels; ++c)
        t.quantize({from + c * pixels, planes + c * n, static_cast<ptrdiff_t>(n), 1.0f / scale, zero_point, 0, qmax, 1});
      if (channels == 3)
        interleave3(planes, n, n, to);
      else
        transpose(planes, 1, channels, n, 1, to);
    }
  });
}

}  // namespace qgemm
