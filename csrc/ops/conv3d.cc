#include "ops/conv3d.h"

#include <string>

#include "cpu/error.h"
#include "ops/taps.h"
#include "ops/threads.h"

namespace qgemm {

void check(const PackedView& w, const Window3& g) {
  if (w.kind == PackedKind::linear) throw Error(Code::packed, "conv3d: this weight was packed by pack_linear; use pack_conv3d");
  if (w.kind == PackedKind::depthwise && w.has_w_zero_point)
    throw Error(Code::packed, "conv3d: a depthwise weight with zero points must be packed by pack_conv3d");
  auto need = [](int64_t v, int64_t least, const char* name, int axis) {
    if (v < least || v >= (int64_t(1) << 31))
      throw Error(Code::shape, std::string("conv3d: ") + name + "[" + std::to_string(axis) + "] must be an integer in " +
                                   std::to_string(least) + "..2^31-1, got " + std::to_string(v));
  };
  for (int i = 0; i < 3; ++i) {
    need(g.kernel[i], 1, "kernel", i);
    need(g.stride[i], 1, "stride", i);
    need(g.dilation[i], 1, "dilation", i);
    need(g.before[i], 0, "padding", i);
    need(g.after[i], 0, "padding", 3 + i);
  }
  if (g.kernel[0] > w.kh || g.kernel[1] > w.kh || g.kernel[0] * g.kernel[1] != w.kh || g.kernel[2] != w.kw)
    throw Error(Code::packed, "conv3d: a kernel of " + std::to_string(g.kernel[0]) + " x " + std::to_string(g.kernel[1]) + " x " +
                                  std::to_string(g.kernel[2]) + " is not the packed weight's");
  if (g.c != w.groups * w.cin_g)
    throw Error(Code::shape, "conv3d: x has " + std::to_string(g.c) + " channels but the weight takes " +
                                 std::to_string(w.groups * w.cin_g) + " (" + std::to_string(w.groups) + " groups of " +
                                 std::to_string(w.cin_g) + "); x must be NDHWC");
}

void conv3d(const PackedView& w, const Window3& g, const uint8_t* x, void* out, const OutputSpec& spec,
            const Encoding8* encoding) {
  check(w, g);
  const int64_t pixel = w.n * static_cast<int64_t>(out_size(spec.type)), o0 = g.out(0), o1 = g.out(1), o2 = g.out(2);
  if (g.batch * o0 * o1 * o2 * w.n == 0) return;
  static thread_local Scratch<int64_t> offsets;
  static thread_local Scratch<int32_t> terms;
  int64_t* const memory = offsets.get(g.kernel[0] + g.kernel[1] + g.kernel[2]);
  TapProduct t{w, make_epilogue(w, spec, {}), {}};
  t.g = {g.batch,
         g.c,
         {g.in[0], g.in[1], g.in[2]},
         {o0, o1, o2},
         {g.stride[0], g.stride[1], g.stride[2]},
         {g.kernel[0], g.kernel[1], g.kernel[2]},
         {memory, memory + g.kernel[0], memory + g.kernel[0] + g.kernel[1]},
         o0 * o1 * o2 * pixel,
         {o1 * o2 * pixel, o2 * pixel, pixel},
         0};
  int64_t* offset = memory;
  for (int i = 0; i < 3; ++i)
    for (int64_t k = 0; k < g.kernel[i]; ++k) *offset++ = k * g.dilation[i] - g.before[i];
  uint8_t zero_point = static_cast<uint8_t>(w.x_zero_point);
  if (encoding) {
    use_encoding("conv3d", w, *encoding, terms.get(2 * w.n_padded), t.e);
    zero_point = static_cast<uint8_t>(encoding->zero_point);
  }
  run_taps({table(), x, static_cast<char*>(out), spec.type, zero_point}, &t, 1);
}

}  // namespace qgemm
