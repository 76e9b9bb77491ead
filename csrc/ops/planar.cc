#include "ops/planar.h"

#include <cmath>

#include "cpu/dispatch.h"
#include "cpu/error.h"
#include "ops/layout.h"
#include "ops/quantize.h"
#include "ops/threads.h"

namespace qgemm {
namespace {

// Pixels quantized at a time: their bytes are still in L1 when they are interleaved.
constexpr int64_t kChunk = 1024;

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
        t.interleave3({planes, static_cast<ptrdiff_t>(n), static_cast<ptrdiff_t>(n), to});
      else
        transpose(planes, 1, channels, n, 1, to);
    }
  });
}

}  // namespace qgemm
