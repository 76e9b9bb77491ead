#include "ops/window.h"

#include <string>

#include "cpu/error.h"

namespace qgemm {

void Window::check(const char* op) const {
  auto need = [&](int64_t v, int64_t least, const char* name, const char* remedy) {
    if (v < least || v >= (int64_t(1) << 31))
      throw Error(Code::shape, std::string(op) + ": " + name + " must be an integer in " + std::to_string(least) +
                                   "..2^31-1, got " + std::to_string(v) + remedy);
  };
  need(kh, 1, "kernel height", "");
  need(kw, 1, "kernel width", "");
  need(stride_h, 1, "stride[0]", "; use 1 to visit every row");
  need(stride_w, 1, "stride[1]", "; use 1 to visit every column");
  need(dilation_h, 1, "dilation[0]", "; 1 is a dense kernel");
  need(dilation_w, 1, "dilation[1]", "; 1 is a dense kernel");
  const char* crop = "; crop the input instead of padding it by a negative amount";
  need(top, 0, "padding[0] (top)", crop);
  need(left, 0, "padding[1] (left)", crop);
  need(bottom, 0, "padding[2] (bottom)", crop);
  need(right, 0, "padding[3] (right)", crop);
}

}  // namespace qgemm
