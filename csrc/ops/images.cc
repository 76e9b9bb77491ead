#include "ops/images.h"

#include <cstring>

#include "cpu/error.h"
#include "ops/threads.h"

namespace qgemm {

void resize_nearest(const uint8_t* x, const ImageShape& s, int64_t oh, int64_t ow, const int32_t* ys, const int32_t* xs,
                    uint8_t* out) {
  const int64_t rows = s.batch * oh, row = ow * s.c;
  if (rows * row == 0) return;
  const KernelTable& t = table();
  parallel_shares(rows, threads_for(rows * row, kGrainBytes), [&](int64_t begin, int64_t end) {
    static thread_local Scratch<const uint8_t*> pointers;
    const uint8_t** a = pointers.get(ow);
    for (int64_t r = begin; r < end; ++r) {
      uint8_t* to = out + r * row;
      if (r > begin && r % oh > 0 && ys[r % oh] == ys[r % oh - 1]) {  // the row above once more
        const uint8_t* above = to - row;
        t.gather({&above, to, 1, static_cast<ptrdiff_t>(row), 0});
        continue;
      }
      const uint8_t* line = x + (r / oh * s.h + ys[r % oh]) * s.w * s.c;
      for (int64_t i = 0; i < ow; ++i) a[i] = line + xs[i] * s.c;
      t.gather({a, to, static_cast<ptrdiff_t>(ow), static_cast<ptrdiff_t>(s.c), static_cast<ptrdiff_t>(s.c)});
    }
  });
}

void resize_linear(const uint8_t* x, const ImageShape& s, const Encoding8& e, const LinearAxis& y, const LinearAxis& w,
                   uint8_t* out, const OutputSpec& spec) {
  if (spec.type != OutType::u8) throw Error(Code::dtype, "resize: a linear interpolation of bytes gives uint8");
  const int64_t rows = s.batch * y.n, row = w.n * s.c, line = s.w * s.c;
  if (rows * row == 0) return;
  const KernelTable& t = table();
  parallel_shares(rows, threads_for(4 * rows * row, kGrainBytes), [&](int64_t begin, int64_t end) {
    static thread_local Scratch<float> floats;
    float *f = floats.get(line + 2 * w.n), *wl = f + line, *wr = wl + w.n;
    for (int64_t i = 0; i < w.n; ++i) wl[i] = 1.0f - w.t[i], wr[i] = w.t[i];
    mix_args m{};
    m.f = f;
    m.left = w.lo;
    m.right = w.hi;
    m.wl = wl;
    m.wr = wr;
    m.pixels = static_cast<ptrdiff_t>(w.n);
    m.channels = static_cast<ptrdiff_t>(s.c);
    m.inv_scale = 1.0f / spec.scale;
    m.zero_point = spec.zero_point;
    m.lo = spec.lo;
    m.hi = spec.hi;
    for (int64_t r = begin; r < end; ++r) {
      const uint8_t* image = x + r / y.n * s.h * line;
      const int64_t i = r % y.n;
      t.lerp({image + y.lo[i] * line, image + y.hi[i] * line, f, static_cast<ptrdiff_t>(line), 1.0f - y.t[i], y.t[i], e.scale,
              e.zero_point});
      m.out = out + r * row;
      t.mix(m);
    }
  });
}

void pad_image(const uint8_t* x, const ImageShape& s, int64_t top, int64_t left, int64_t bottom, int64_t right, uint8_t value,
               uint8_t* out) {
  const int64_t oh = top + s.h + bottom, row = (left + s.w + right) * s.c, rows = s.batch * oh, line = s.w * s.c;
  if (rows * row == 0) return;
  const KernelTable& t = table();
  parallel_shares(rows, threads_for(rows * row, kGrainBytes), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t iy = r % oh - top;
      uint8_t* to = out + r * row;
      if (iy < 0 || iy >= s.h) {
        std::memset(to, value, static_cast<size_t>(row));
        continue;
      }
      std::memset(to, value, static_cast<size_t>(left * s.c));
      const uint8_t* from = x + (r / oh * s.h + iy) * line;
      t.gather({&from, to + left * s.c, 1, static_cast<ptrdiff_t>(line), 0});
      std::memset(to + left * s.c + line, value, static_cast<size_t>(right * s.c));
    }
  });
}

void depth_to_space(const uint8_t* x, const ImageShape& s, int64_t block, bool channels_first, uint8_t* out) {
  const int64_t n = s.c / (block * block), rows = s.batch * s.h, line = s.w * s.c, piece = block * n;
  if (rows * line == 0) return;
  const KernelTable& t = table();
  parallel_shares(rows, threads_for(rows * line, kGrainBytes), [&](int64_t begin, int64_t end) {
    static thread_local Scratch<const uint8_t*> pointers;
    static thread_local Scratch<int32_t> indices;
    static thread_local Scratch<uint8_t> ordered;
    const uint8_t** a = pointers.get(s.w);
    int32_t* index = nullptr;
    if (channels_first) {  // to the order (sy, sx, k) first, a row at a time
      index = indices.get(s.c);
      for (int64_t p = 0; p < block * block; ++p)
        for (int64_t k = 0; k < n; ++k) index[p * n + k] = static_cast<int32_t>(k * block * block + p);
    }
    for (int64_t r = begin; r < end; ++r) {
      const uint8_t* from = x + r * line;
      if (channels_first) {
        uint8_t* to = ordered.get(line);
        t.permute({from, to, index, static_cast<ptrdiff_t>(s.w), static_cast<ptrdiff_t>(s.c)});
        from = to;
      }
      for (int64_t sy = 0; sy < block; ++sy) {
        for (int64_t i = 0; i < s.w; ++i) a[i] = from + i * s.c + sy * piece;
        t.gather({a, out + (r * block + sy) * s.w * piece, static_cast<ptrdiff_t>(s.w), static_cast<ptrdiff_t>(piece),
                  static_cast<ptrdiff_t>(piece)});
      }
    }
  });
}

void permute_channels(const uint8_t* x, int64_t pixels, int64_t c, const int32_t* index, uint8_t* out) {
  if (pixels * c == 0) return;
  const KernelTable& t = table();
  // Blocks of pixels that L1 holds: the kernel passes over them once for each 64 channels.
  const int64_t block = 16384 / c + 1, blocks = (pixels + block - 1) / block;
  parallel_shares(blocks, threads_for(pixels * c, kGrainBytes), [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const int64_t first = b * block, count = pixels - first < block ? pixels - first : block;
      t.permute({x + first * c, out + first * c, index, static_cast<ptrdiff_t>(count), static_cast<ptrdiff_t>(c)});
    }
  });
}

}  // namespace qgemm
