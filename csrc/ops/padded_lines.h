// Lines of an image that a convolution over few channels reads, between their left and right padding.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "ops/conv_job.h"

namespace qgemm {

// Lines of the image between their left and right padding, copied once for all output lines that read them.
class PaddedLines {
 public:
  // For this call; memory: room for bytes(j).
  PaddedLines(const ConvJob& j, uint8_t* memory)
      : j_(j),
        slots_(slots(j)),
        line_(line_bytes(j)),
        before_(round_up(j.g.left * j.g.c)),
        memory_(memory),
        held_(reinterpret_cast<int64_t*>(memory + (slots_ + 1) * line_)) {
    std::fill_n(held_, slots_, int64_t(-1));
    std::memset(memory_, j.zero_point, static_cast<size_t>((slots_ + 1) * line_));
  }
  static int64_t bytes(const ConvJob& j) { return (slots(j) + 1) * line_bytes(j) + slots(j) * int64_t(sizeof(int64_t)); }

  // Line y of an image, from its left padding on; one above or below the image is all padding. The last kh + min(kh, stride_h)
  // lines stay as they are.
  const uint8_t* get(int64_t image, int64_t y) {
    const Window& g = j_.g;
    const int64_t left = g.left * g.c, middle = g.w * g.c;
    if (y < 0 || y >= g.h) return memory_ + slots_ * line_ + before_ - left;
    const int64_t slot = y & (slots_ - 1), id = image * g.h + y;
    uint8_t* at = memory_ + slot * line_ + before_;
    if (held_[slot] != id) {
      std::memcpy(at, j_.x + id * middle, static_cast<size_t>(middle));
      held_[slot] = id;
    }
    return at - left;
  }

 private:
  static int64_t round_up(int64_t bytes) { return (bytes + 63) & ~int64_t(63); }
  // A power of two of lines, as many as lie under a filter and the one below it.
  static int64_t slots(const ConvJob& j) {
    int64_t n = 1;
    while (n < j.g.kh + std::min(j.g.kh, j.g.stride_h)) n *= 2;
    return n;
  }
  static int64_t line_bytes(const ConvJob& j) { return round_up(j.g.left * j.g.c) + round_up((j.g.w + j.g.right) * j.g.c); }

  const ConvJob& j_;
  const int64_t slots_, line_, before_;
  uint8_t* const memory_;
  int64_t* const held_;
};

}  // namespace qgemm
