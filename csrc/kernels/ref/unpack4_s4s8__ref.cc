#include "kernels/api.h"

namespace qgemm {
namespace ref {

void unpack4_s4s8_1x1(const unpack4_args& g) {
  for (ptrdiff_t i = 0; i < g.bytes; ++i) {
    const uint8_t byte = g.src[i / 128 * 64 + i % 64];
    const int nibble = i % 128 < 64 ? byte & 15 : byte >> 4;
    g.dst[i] = static_cast<int8_t>((nibble ^ 8) - 8);
  }
}

}  // namespace ref
}  // namespace qgemm
