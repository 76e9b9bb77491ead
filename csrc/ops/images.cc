#include "ops/images.h"

#include <algorithm>
#include <cstring>

#include "cpu/error.h"
#include "ops/threads.h"

namespace qgemm {
namespace {

constexpr int64_t kPermuted = 256;          // bytes that the permuting kernel takes at once
constexpr int64_t kRepeated = 32;           // bytes of the largest pixel that is repeated faster by it than by copies
constexpr Isa kPermutes = Isa::avx512vbmi;  // from this path on it is faster than copying pieces of as many bytes

// Small pixels are permuted several at a time, those that fill whole registers best: how many, of c bytes in and `outputs` out.
int64_t pixels_at_once(int64_t c, int64_t outputs, int64_t pixels) {
  const int64_t bytes = std::max(c, outputs), most = std::min(pixels, kPermuted / std::max<int64_t>(bytes, 1));
  int64_t best = 1;
  double filled = 0;
  for (int64_t n = 1; n <= most; ++n) {
    const double share = static_cast<double>(n * bytes) / static_cast<double>((n * bytes + 63) / 64);
    if (share >= filled) best = n, filled = share;
  }
  return best;
}

}  // namespace

void resize_nearest(const uint8_t* x, const ImageShape& s, int64_t oh, int64_t ow, const int32_t* ys, const int32_t* xs,
                    uint8_t* out) {
  const int64_t rows = s.batch * oh, row = ow * s.c;
  if (rows * row == 0) return;
  const KernelTable& t = table();
  // Where every pixel of a row is repeated as often and pixels are small, several are repeated by one permutation.
  const int64_t factor = ow % s.w == 0 ? ow / s.w : 1;
  bool repeats = factor > 1 && s.c <= kRepeated && factor * s.c <= kPermuted && t.isa >= kPermutes;
  for (int64_t i = 0; i < ow && repeats; ++i) repeats = xs[i] == i / factor;
  const int64_t at_once = repeats ? pixels_at_once(s.c, factor * s.c, s.w) : 1, rest = s.w % at_once;
  parallel_shares(rows, threads_for(rows * row, kGrainBytes), [&](int64_t begin, int64_t end) {
    static thread_local Scratch<const uint8_t*> pointers;
    static thread_local Scratch<int32_t> indices;
    const uint8_t** a = repeats ? nullptr : pointers.get(ow);
    int32_t* index = repeats ? indices.get(at_once * factor * s.c) : nullptr;
    for (int64_t i = 0; repeats && i < at_once * factor * s.c; ++i)
      index[i] = static_cast<int32_t>(i / (factor * s.c) * s.c + i % s.c);
    for (int64_t r = begin; r < end; ++r) {
      uint8_t* to = out + r * row;
      if (r > begin && r % oh > 0 && ys[r % oh] == ys[r % oh - 1]) {  // the row above once more
        const uint8_t* above = to - row;
        t.gather({&above, to, 1, static_cast<ptrdiff_t>(row), 0});
        continue;
      }
      const uint8_t* line = x + (r / oh * s.h + ys[r % oh]) * s.w * s.c;
      if (repeats) {
        const auto permute = [&](int64_t first, int64_t count, int64_t pixels) {
          t.permute({line + first * s.c, to + first * factor * s.c, index, static_cast<ptrdiff_t>(count),
                     static_cast<ptrdiff_t>(pixels * s.c), static_cast<ptrdiff_t>(pixels * factor * s.c)});
        };
        permute(0, s.w / at_once, at_once);
        if (rest) permute(s.w - rest, 1, rest);
        continue;
      }
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

namespace {

// Byte (sy, pixel, sx, k) of the rows that `pixels` pixels of block * block * n channels become, in the order of the result, lies
// in which byte of them.
void depth_order(int64_t pixels, int64_t block, int64_t n, bool channels_first, int32_t* index) {
  for (int64_t sy = 0; sy < block; ++sy)
    for (int64_t i = 0; i < pixels; ++i)
      for (int64_t sx = 0; sx < block; ++sx)
        for (int64_t k = 0; k < n; ++k) {
          const int64_t p = sy * block + sx;
          *index++ = static_cast<int32_t>(i * block * block * n + (channels_first ? k * block * block + p : p * n + k));
        }
}

constexpr int64_t kShortPiece = 16;  // bytes below which pieces are permuted into place rather than copied one by one

}  // namespace

void depth_to_space(const uint8_t* x, const ImageShape& s, int64_t block, bool channels_first, uint8_t* out) {
  const int64_t n = s.c / (block * block), rows = s.batch * s.h, line = s.w * s.c, piece = block * n;
  if (rows * line == 0) return;
  const KernelTable& t = table();
  // To the order (sy, pixel, sx, k) first, some pixels at a time; what is left are longer pieces.
  const bool permuted = channels_first || (piece <= kShortPiece && t.isa >= kPermutes);
  const int64_t at_once = permuted ? pixels_at_once(s.c, s.c, s.w) : 1, whole = s.w / at_once, rest = s.w % at_once;
  parallel_shares(rows, threads_for(rows * line, kGrainBytes), [&](int64_t begin, int64_t end) {
    static thread_local Scratch<const uint8_t*> pointers;
    static thread_local Scratch<int32_t> indices;
    static thread_local Scratch<uint8_t> ordered;
    const uint8_t** a = pointers.get(whole);
    int32_t *index = nullptr, *rest_index = nullptr;
    if (permuted) {
      index = indices.get((at_once + rest) * s.c);
      rest_index = index + at_once * s.c;
      depth_order(at_once, block, n, channels_first, index);
      depth_order(rest, block, n, channels_first, rest_index);
    }
    for (int64_t r = begin; r < end; ++r) {
      const uint8_t* from = x + r * line;
      if (permuted) {
        uint8_t* to = ordered.get(line);
        const auto permute = [&](int64_t first, int64_t count, int64_t pixels, const int32_t* order) {
          const auto c = static_cast<ptrdiff_t>(pixels * s.c);
          t.permute({from + first * s.c, to + first * s.c, order, static_cast<ptrdiff_t>(count), c, c});
        };
        permute(0, whole, at_once, index);
        if (rest) permute(whole * at_once, 1, rest, rest_index);
        from = to;
      }
      for (int64_t sy = 0; sy < block; ++sy) {
        uint8_t* to = out + (r * block + sy) * s.w * piece;
        const int64_t length = at_once * piece;
        for (int64_t i = 0; i < whole; ++i) a[i] = from + i * at_once * s.c + sy * length;
        t.gather({a, to, static_cast<ptrdiff_t>(whole), static_cast<ptrdiff_t>(length), static_cast<ptrdiff_t>(length)});
        if (rest) {
          const uint8_t* last = from + whole * at_once * s.c + sy * rest * piece;
          t.gather({&last, to + whole * length, 1, static_cast<ptrdiff_t>(rest * piece), 0});
        }
      }
    }
  });
}

void space_to_depth(const uint8_t* x, const ImageShape& s, int64_t block, bool channels_first, uint8_t* out) {
  const int64_t ow = s.w / block, rows = s.batch * s.h / block, line = s.w * s.c, piece = block * s.c, c = block * piece;
  if (rows * line == 0) return;
  const KernelTable& t = table();
  // The pieces of some pixels, row by row, and from that order to the one of the result.
  const bool permuted = channels_first || (piece <= kShortPiece && t.isa >= kPermutes);
  const int64_t at_once = permuted ? pixels_at_once(c, c, ow) : 1, rest = ow % at_once, groups = ow / at_once + (rest > 0);
  parallel_shares(rows, threads_for(rows * ow * c, kGrainBytes), [&](int64_t begin, int64_t end) {
    static thread_local Scratch<const uint8_t*> pointers;
    static thread_local Scratch<int32_t> indices;
    static thread_local Scratch<uint8_t> memory;
    const uint8_t** a = pointers.get(groups * block);
    int32_t *index = nullptr, *rest_index = nullptr;
    if (permuted) {
      index = indices.get((at_once + rest) * c);
      rest_index = index + at_once * c;
      const auto order = [&](int64_t pixels, int32_t* to) {
        for (int64_t sy = 0, from = 0; sy < block; ++sy)
          for (int64_t i = 0; i < pixels; ++i)
            for (int64_t sx = 0; sx < block; ++sx)
              for (int64_t k = 0; k < s.c; ++k, ++from) {
                const int64_t p = sy * block + sx;
                to[i * c + (channels_first ? k * block * block + p : p * s.c + k)] = static_cast<int32_t>(from);
              }
      };
      order(at_once, index);
      order(rest, rest_index);
    }
    const auto whole = static_cast<ptrdiff_t>(ow / at_once), length = static_cast<ptrdiff_t>(at_once * piece),
               wide = static_cast<ptrdiff_t>(at_once * c), last = static_cast<ptrdiff_t>(rest * c);
    for (int64_t r = begin; r < end; ++r) {
      uint8_t* const to = out + r * ow * c;
      uint8_t* const pieces = permuted ? memory.get(ow * c) : to;
      for (int64_t i = 0; i < groups; ++i)
        for (int64_t sy = 0; sy < block; ++sy) a[i * block + sy] = x + (r * block + sy) * line + i * length;
      const auto rows_of = static_cast<ptrdiff_t>(block);
      t.gather({a, pieces, whole * rows_of, length, length});
      if (rest) t.gather({a + whole * rows_of, pieces + whole * wide, rows_of, last / rows_of, last / rows_of});
      if (!permuted) continue;
      t.permute({pieces, to, index, whole, wide, wide});
      if (rest) t.permute({pieces + whole * wide, to + whole * wide, rest_index, 1, last, last});
    }
  });
}

void permute_channels(const uint8_t* x, int64_t pixels, int64_t c, const int32_t* index, uint8_t* out) {
  if (pixels * c == 0) return;
  const KernelTable& t = table();
  static thread_local Scratch<int32_t> indices;
  const int64_t at_once = pixels_at_once(c, c, pixels), wide = at_once * c;
  int32_t* order = indices.get(wide);
  for (int64_t i = 0; i < wide; ++i) order[i] = static_cast<int32_t>(i / c * c) + index[i % c];
  // Blocks that L1 holds: where pixels are larger than the kernel takes at once, it passes over them for each 64 channels.
  const int64_t block = (16384 / wide + 1) * at_once, blocks = (pixels + block - 1) / block;
  parallel_shares(blocks, threads_for(pixels * c, kGrainBytes), [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const int64_t first = b * block, count = pixels - first < block ? pixels - first : block, rest = count % at_once;
      const int64_t last = first + count - rest;
      t.permute({x + first * c, out + first * c, order, static_cast<ptrdiff_t>(count / at_once), static_cast<ptrdiff_t>(wide),
                 static_cast<ptrdiff_t>(wide)});
      if (rest)
        t.permute({x + last * c, out + last * c, order, static_cast<ptrdiff_t>(rest), static_cast<ptrdiff_t>(c),
                   static_cast<ptrdiff_t>(c)});
    }
  });
}

}  // namespace qgemm
