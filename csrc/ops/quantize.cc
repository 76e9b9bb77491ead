#include "ops/quantize.h"

#include <atomic>
#include <cmath>
#include <limits>
#include <string>

#include "cpu/dispatch.h"
#include "cpu/error.h"
#include "kernels/encoding.h"
#include "ops/threads.h"

namespace qgemm {
namespace {

// Values of one channel that lie apart are gathered to a run of this many for the kernel.
constexpr int64_t kGather = 256;

std::string at(int64_t channels, int64_t c) { return channels == 1 ? std::string() : "[" + std::to_string(c) + "]"; }

void check_scale(float scale, int64_t channels, int64_t c) {
  if (!(std::isfinite(scale) && scale > 0))
    throw Error(Code::quantization, "scale" + at(channels, c) + " must be finite and > 0, got " + std::to_string(scale) +
                                        "; recalibrate the quantizer");
}

// f(channel, first element, count, stride) for every run of one channel, on as many threads as the size is worth.
template <class F>
void for_runs(const ChannelShape& s, F&& f) {
  const int64_t total = s.outer * s.channels * s.inner;
  if (total == 0) return;
  const int threads = threads_for(total, kGrainBytes);
  if (s.channels == 1) {
    const int64_t step = 64, blocks = (total + step - 1) / step;
    parallel_shares(blocks, threads, [&](int64_t b, int64_t e) {
      f(int64_t(0), b * step, (e * step < total ? e * step : total) - b * step, int64_t(1));
    });
  } else if (s.inner > 1) {
    parallel_shares(s.outer * s.channels, threads, [&](int64_t b, int64_t e) {
      for (int64_t i = b; i < e; ++i) f(i % s.channels, i * s.inner, s.inner, int64_t(1));
    });
  } else {
    parallel_shares((s.outer + kGather - 1) / kGather, threads, [&](int64_t b, int64_t e) {
      for (int64_t i = b; i < e; ++i) {
        const int64_t o = i * kGather, n = s.outer - o < kGather ? s.outer - o : kGather;
        for (int64_t c = 0; c < s.channels; ++c) f(c, o * s.channels + c, n, s.channels);
      }
    });
  }
}

}  // namespace

void quantize(const float* x, void* q, IntType type, const ChannelShape& shape, const float* scale, const int32_t* zero_point,
              int64_t qmin, int64_t qmax) {
  const int64_t lowest = type.is_signed ? -(int64_t(1) << (8 * type.bytes - 1)) : 0,
                highest = lowest + (int64_t(1) << (8 * type.bytes)) - 1;
  if (qmin > qmax || qmin < lowest || qmax > highest)
    throw Error(Code::quantization, "qmin = " + std::to_string(qmin) + ", qmax = " + std::to_string(qmax) +
                                        " must be a range within " + std::to_string(lowest) + ".." + std::to_string(highest) +
                                        ", what the output's type holds");
  for (int64_t c = 0; c < shape.channels; ++c) {
    check_scale(scale[c], shape.channels, c);
    if (!std::isfinite(1.0f / scale[c]))
      throw Error(Code::quantization,
                  "scale" + at(shape.channels, c) + " is so small that its reciprocal is infinite; recalibrate the quantizer");
    if (zero_point[c] < qmin || zero_point[c] > qmax)
      throw Error(Code::quantization, "zero_point" + at(shape.channels, c) + " must lie in qmin..qmax = " + std::to_string(qmin) +
                                          ".." + std::to_string(qmax) + ", got " + std::to_string(zero_point[c]));
  }
  const KernelTable& t = table();
  for_runs(shape, [&](int64_t c, int64_t first, int64_t n, int64_t stride) {
    quantize_args g{};
    g.inv_scale = 1.0f / scale[c];
    g.zero_point = zero_point[c];
    g.qmin = static_cast<int32_t>(qmin);
    g.qmax = static_cast<int32_t>(qmax);
    g.bytes = type.bytes;
    g.n = n;
    if (stride == 1) {
      g.x = x + first;
      g.q = static_cast<char*>(q) + first * type.bytes;
      t.quantize(g);
      return;
    }
    float in[kGather];
    uint16_t out[kGather];
    for (int64_t i = 0; i < n; ++i) in[i] = x[first + i * stride];
    g.x = in;
    g.q = out;
    t.quantize(g);
    if (type.bytes == 1)
      for (int64_t i = 0; i < n; ++i) static_cast<uint8_t*>(q)[first + i * stride] = reinterpret_cast<const uint8_t*>(out)[i];
    else
      for (int64_t i = 0; i < n; ++i) static_cast<uint16_t*>(q)[first + i * stride] = out[i];
  });
}

void dequantize(const void* q, float* x, IntType type, const ChannelShape& shape, const float* scale, const int32_t* zero_point) {
  const int64_t lowest = type.is_signed ? -(int64_t(1) << (8 * type.bytes - 1)) : 0,
                highest = lowest + (int64_t(1) << (8 * type.bytes)) - 1;
  for (int64_t c = 0; c < shape.channels; ++c) {
    check_scale(scale[c], shape.channels, c);
    if (zero_point[c] < lowest || zero_point[c] > highest)
      throw Error(Code::quantization, "zero_point" + at(shape.channels, c) + " must lie in " + std::to_string(lowest) + ".." +
                                          std::to_string(highest) + ", the grid of q's type, got " +
                                          std::to_string(zero_point[c]));
  }
  const KernelTable& t = table();
  for_runs(shape, [&](int64_t c, int64_t first, int64_t n, int64_t stride) {
    dequantize_args g{};
    g.scale = scale[c];
    g.zero_point = zero_point[c];
    g.bytes = type.bytes;
    g.is_signed = type.is_signed;
    g.n = n;
    if (stride == 1) {
      g.q = static_cast<const char*>(q) + first * type.bytes;
      g.x = x + first;
      t.dequantize(g);
      return;
    }
    uint16_t in[kGather];
    float out[kGather];
    if (type.bytes == 1)
      for (int64_t i = 0; i < n; ++i) reinterpret_cast<uint8_t*>(in)[i] = static_cast<const uint8_t*>(q)[first + i * stride];
    else
      for (int64_t i = 0; i < n; ++i) in[i] = static_cast<const uint16_t*>(q)[first + i * stride];
    g.q = in;
    g.x = out;
    t.dequantize(g);
    for (int64_t i = 0; i < n; ++i) x[first + i * stride] = out[i];
  });
}

void row_not_finite(int64_t row) {
  throw Error(Code::quantization, "row " + std::to_string(row) +
                                      " of x holds a NaN or an infinity, which has no place on a grid; find where it comes from");
}

int64_t quantize_rows(const KernelTable& t, const float* x, int64_t m, int64_t k, ptrdiff_t ldx, uint8_t* q, float* scale,
                      int32_t* zero_point, bool symmetric) {
  ptrdiff_t bad = -1;
  t.quantize_rows({x, ldx, static_cast<ptrdiff_t>(m), static_cast<ptrdiff_t>(k), q, static_cast<ptrdiff_t>(k), scale, zero_point,
                   symmetric, &bad});
  return bad;
}

void quantize_dynamic(const float* x, int64_t m, int64_t k, ptrdiff_t ldx, uint8_t* q, float* scale, int32_t* zero_point,
                      bool per_row, bool symmetric) {
  const KernelTable& t = table();
  const int threads = threads_for(m * k, kGrainBytes);
  // No exception may leave a parallel region: the first bad row is remembered.
  std::atomic<int64_t> bad{std::numeric_limits<int64_t>::max()};
  auto note = [&](int64_t row) {
    int64_t seen = bad.load(std::memory_order_relaxed);
    while (row < seen && !bad.compare_exchange_weak(seen, row, std::memory_order_relaxed)) {
    }
  };
  auto range = [&](int64_t row, float* lo, float* hi) {
    bool finite = true;
    minmax_args g{x + row * ldx, static_cast<ptrdiff_t>(k), lo, hi, &finite};
    t.minmax(g);
    if (!finite) note(row);
  };
  auto store = [&](int64_t row, const DynamicEncoding& e) {
    t.quantize({x + row * ldx, q + row * k, static_cast<ptrdiff_t>(k), 1.0f / e.scale, e.zero_point, 0, 255, 1});
  };
  if (per_row) {
    parallel_shares(m, threads, [&](int64_t b, int64_t e) {
      const int64_t row = quantize_rows(t, x + b * ldx, e - b, k, ldx, q + b * k, scale + b, zero_point + b, symmetric);
      if (row >= 0) note(b + row);
    });
    if (bad.load() < m) row_not_finite(bad.load());
    return;
  }
  std::atomic<float> least{0.0f}, most{0.0f};
  parallel_shares(m, threads, [&](int64_t b, int64_t e) {
    float lo_all = 0.0f, hi_all = 0.0f;
    for (int64_t i = b; i < e; ++i) {
      float lo, hi;
      range(i, &lo, &hi);
      lo_all = lo < lo_all ? lo : lo_all;
      hi_all = hi > hi_all ? hi : hi_all;
    }
    for (float seen = least.load(); lo_all < seen && !least.compare_exchange_weak(seen, lo_all);) {
    }
    for (float seen = most.load(); hi_all > seen && !most.compare_exchange_weak(seen, hi_all);) {
    }
  });
  if (bad.load() < m) row_not_finite(bad.load());
  const DynamicEncoding enc = encoding_of(least.load(), most.load(), symmetric);
  scale[0] = enc.scale;
  zero_point[0] = enc.zero_point;
  parallel_shares(m, threads, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; ++i) store(i, enc);
  });
}

void pack_int4(const int8_t* values, int64_t rows, int64_t length, uint8_t* packed) {
  const int64_t bytes = (length + 1) / 2;
  for (int64_t r = 0; r < rows; ++r) {
    const int8_t* v = values + r * length;
    for (int64_t i = 0; i < bytes; ++i) {
      const int low = v[2 * i] & 15, high = 2 * i + 1 < length ? v[2 * i + 1] & 15 : 0;
      packed[r * bytes + i] = static_cast<uint8_t>(low | high << 4);
    }
  }
}

void unpack_int4(const uint8_t* packed, int64_t rows, int64_t length, bool is_signed, int8_t* values) {
  const int64_t bytes = (length + 1) / 2;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t i = 0; i < length; ++i) {
      const int nibble = packed[r * bytes + i / 2] >> (i % 2 * 4) & 15;
      values[r * length + i] = static_cast<int8_t>(is_signed ? (nibble ^ 8) - 8 : nibble);
    }
}

}  // namespace qgemm
