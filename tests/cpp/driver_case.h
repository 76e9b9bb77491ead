// What the driver tests share: a random layer with its weights, the specification's answer from canonical integers, and a
// comparison of that answer with every instruction set path and thread count.
#pragma once
#include <cmath>
#include <functional>

#include "ops/gemm.h"
#include "pack/weights.h"
#include "support.h"

namespace qgemm {
namespace test {

// Weights, scales and encodings of one layer, in canonical order.
struct Layer {
  PackSpec spec;
  std::vector<int8_t> weight;
  std::vector<float> scale, bias;
  std::vector<int32_t> zero_point, bias_int32;

  // Fills the values for n outputs of k products each; spec's dimensions are set by the caller.
  void fill_values(Rng& rng, int64_t n, int64_t k, bool zero_points, int64_t scale_count);
  // Packs into `memory`, flush against its end.
  PackedView pack_into(Guarded& memory) const;
};

// A random output type, grid and bounds, for outputs of about `size` in real units.
OutputSpec any_output(Rng& rng, double size, bool s32);

// One output element as docs/numerics.md defines it, stored at `c`. acc: the exact sum. scale: S[n] (and the row's scale).
void store_exact(const OutputSpec& out, int64_t acc, float scale, float bias, void* c);
// The end of a grouped product.
void store_float(const OutputSpec& out, float y, void* c);

// Runs `call` on every runnable path with 1 and with 2 threads, into guarded memory with canaries, and holds rows x row_bytes to
// `want`. False on the first difference.
bool same_everywhere(Output& got, const std::vector<uint8_t>& want, int64_t rows, int64_t row_bytes, int64_t ld, Side side,
                     const std::function<void(void*)>& call);

}  // namespace test
}  // namespace qgemm
