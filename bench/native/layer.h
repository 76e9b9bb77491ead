// A linear layer with random weights, packed, and inputs for it.
#pragma once
#include <omp.h>

#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "ops/gemm.h"
#include "ops/threads.h"

namespace qgemm_bench {

class Layer {
 public:
  // `copies` of the packed weight lie at different addresses: with more bytes than any cache holds, next() is always cold.
  Layer(int64_t n, int64_t k, bool dynamic = false, int64_t copies = 1, int bits = 8)
      : n(n),
        k(k),
        copies_(static_cast<size_t>(copies)),
        weight_(static_cast<size_t>(n * k)),
        scale_(static_cast<size_t>(n), 0.01f),
        bias_(static_cast<size_t>(n), 0.5f) {
    std::mt19937 random(1);
    for (auto& w : weight_)
      w = static_cast<int8_t>(bits == 4 ? static_cast<int>(random() % 16) - 8 : static_cast<int>(random() % 256) - 128);
    spec.n = n;
    spec.k = k;
    spec.weight = weight_.data();
    spec.scale = scale_.data();
    spec.scale_count = n;
    spec.bias = bias_.data();
    spec.bits = bits;
    spec.dynamic = dynamic;
    if (!dynamic) {
      spec.x_scale = 0.02f;
      spec.x_zero_point = 120;
    }
    bytes_ = qgemm::packed_bytes(spec);
    for (auto& c : copies_) {
      uint8_t* to = c.get(bytes_);
      if (&c == copies_.data())
        qgemm::pack(spec, to);
      else
        std::memcpy(to, copies_.front().get(bytes_), static_cast<size_t>(bytes_));
      views_.push_back(qgemm::view(to, bytes_));
    }
  }

  // The next copy, round and round.
  const qgemm::PackedView& next() { return views_[turn_++ % views_.size()]; }
  const qgemm::PackedView& view() const { return views_.front(); }
  int64_t panel_bytes() const { return views_.front().group_panel_bytes(); }
  int64_t packed_bytes() const { return bytes_; }

  const int64_t n, k;
  qgemm::PackSpec spec;

 private:
  std::vector<qgemm::Scratch<uint8_t>> copies_;
  std::vector<int8_t> weight_;
  std::vector<float> scale_, bias_;
  std::vector<qgemm::PackedView> views_;
  int64_t bytes_ = 0;
  size_t turn_ = 0;
};

inline qgemm::OutputSpec output(qgemm::OutType type) {
  qgemm::OutputSpec out;
  out.type = type;
  if (type == qgemm::OutType::u8) {
    out.scale = 3.0f;
    out.zero_point = 100;
  }
  out.f_lo = -1e30f;
  out.f_hi = 1e30f;
  return out;
}

inline std::vector<uint8_t> random_bytes(int64_t count) {
  std::mt19937 random(2);
  std::vector<uint8_t> x(static_cast<size_t>(count));
  for (auto& v : x) v = static_cast<uint8_t>(random());
  return x;
}

inline std::vector<float> random_floats(int64_t count) {
  std::mt19937 random(3);
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<float> x(static_cast<size_t>(count));
  for (auto& v : x) v = uniform(random);
  return x;
}

}  // namespace qgemm_bench
