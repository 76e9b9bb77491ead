// The engine's typed error. The binding turns each code into the class of the same meaning in qgemm.errors.
#pragma once
#include <stdexcept>
#include <string>

namespace qgemm {

enum class Code { shape, dtype, layout, quantization, overflow, packed, isa, config };

class Error : public std::runtime_error {
 public:
  Error(Code code, const std::string& message) : std::runtime_error(message), code_(code) {}
  Code code() const { return code_; }

 private:
  Code code_;
};

}  // namespace qgemm
