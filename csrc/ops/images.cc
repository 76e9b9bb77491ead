#include "ops/images.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "cpu/error.h"
#include "ops/threads.h"

namespace qgemm {
namespace {

constexpr int64_t kWholeBytes = 2048;       // of a unit's result, the most where it is whole registers
constexpr int64_t kRegisters = 4;           // of 64 bytes, that the permuting kernel takes at once
constexpr int64_t kNearBytes = 256;         // of a unit's result, where each comes from a place near its own
constexpr int64_t kNearRow = 256;           // and of a row's, where it is two
constexpr int64_t kRepeated = 128;          // bytes of the largest pixel that is repeated faster by it than by copies
constexpr int64_t kWoven = 32;              // and of the largest of two rows that it makes one of
constexpr Isa kPermutes = Isa::avx512vbmi;  // from this path on it is faster than copying pieces of as many bytes

constexpr int64_t kBlock = 16384;  // bytes of some rows that L1 holds beside what they are made from

void copy_row(const KernelTable& t, const uint8_t* from, uint8_t* to, int64_t bytes) {
  t.gather({&from, to, 1, static_cast<ptrdiff_t>(bytes), 0});
}

int64_t registers_of(int64_t bytes) { return (bytes + 63) / 64; }

// Whether the permuting kernel might take all units of a row as one array of bytes: not where rows are short, or pieces are two
// and fill registers.
bool may_be_near(const permute_args& g) {
  const ptrdiff_t ratio = g.out_pieces, length = g.out_length;
  if (g.in_pieces != 1 || g.twin || ratio > 2 || g.in_length != ratio * length || length > kNearBytes) return false;
  return ratio == 1 ? length % 64 != 0 && g.units * length >= 64 : 64 % length != 0 && g.units * length >= kNearRow;
}

// And whether it does: if none of the bytes of a unit lies far from its place.
bool is_near(const permute_args& g, const int32_t* index) {
  const auto ratio = static_cast<int32_t>(g.out_pieces), length = static_cast<int32_t>(g.out_length);
  int32_t lowest = 0, highest = 0;
  for (const int32_t *piece = index, *end = index + ratio * length; piece < end; piece += length)
    for (int32_t i = 0; i < length; ++i) {
      lowest = std::min(lowest, piece[i] - ratio * i);
      highest = std::max(highest, piece[i] - ratio * i);
    }
  return highest + 63 * ratio < (lowest - 63) / 64 * 64 + 64 * kRegisters;
}

// Small units are permuted several at a time: how many of `units`, so that the most bytes go with a register. Registers of a
// result count twice, as storing one takes twice the time of loading it, and thrice where they are drawn from more than two
// others. Those drawn from two stretches of a unit, whatever its size (`compact`), are best whole.
int64_t units_at_once(const permute_args& g, int64_t units, bool compact) {
  int64_t best = 1;
  double most = 0;
  for (int64_t n = 1; n <= units; ++n) {
    const int64_t in = g.in_pieces * registers_of(n * g.in_length), out = g.out_pieces * registers_of(n * g.out_length);
    if (n > 1 && std::max(in, out) > kRegisters) break;
    const double share = static_cast<double>(n) / static_cast<double>(in + (in > 2 ? 3 : 2) * out);
    if (share > most) best = n, most = share;
  }
  if (!compact || best * g.out_length % 64 == 0) return best;
  const int64_t whole = 64 / std::gcd(int64_t(64), int64_t(g.out_length));
  return whole <= units && whole * g.out_pieces * g.out_length <= kWholeBytes ? whole : best;
}

// Rows of units, g's but for the index: order(n, index) writes the order of n neighbours taken as one.
template <class F>
void permute_rows(const KernelTable& t, const permute_args& g, F&& order, bool compact = false) {
  static thread_local Scratch<int32_t> indices;
  const int64_t in = g.in_length, out = g.out_length;
  for (int64_t first = 0, n = 1; first < g.units; first += (g.units - first) / n * n) {
    const auto ordered = [&](int64_t some) {
      int32_t* to = indices.get(some * g.out_pieces * out);
      order(some, to);
      return to;
    };
    const int32_t* index = t.isa >= kPermutes && may_be_near(g) ? ordered(1) : nullptr;
    n = index && is_near(g, index) ? 1 : units_at_once(g, g.units - first, compact);
    if (!index || n > 1) index = ordered(n);
    permute_args s = g;
    s.x += first * in;
    s.out += first * out;
    s.index = index;
    s.units = static_cast<ptrdiff_t>((g.units - first) / n);
    s.in_length = static_cast<ptrdiff_t>(n * in);
    s.out_length = static_cast<ptrdiff_t>(n * out);
    t.permute(s);
  }
}

}  // namespace

void resize_nearest(const uint8_t* x, const ImageShape& s, int64_t oh, int64_t ow, const int32_t* ys, const int32_t* xs,
                    uint8_t* out) {
  const int64_t rows = s.batch * oh, row = ow * s.c;
  if (rows * row == 0) return;
  const KernelTable& t = table();
  // Where every pixel is repeated as often, small ones are repeated by permutations.
  const int64_t factor = ow % s.w == 0 ? ow / s.w : 1, times = oh % s.h == 0 ? oh / s.h : 1;
  bool repeats = factor > 1 && oh == times * s.h && s.c <= kRepeated && t.isa >= kPermutes;
  for (int64_t i = 0; i < ow && repeats; ++i) repeats = xs[i] == i / factor;
  for (int64_t i = 0; i < oh && repeats; ++i) repeats = ys[i] == i / times;
  if (repeats) {
    const int64_t lines = s.batch * s.h, line = s.w * s.c;
    return parallel_shares(lines, threads_for(rows * row, kGrainBytes), [&](int64_t begin, int64_t end) {
      // A line's rows are written two at a time.
      for (int64_t i = 0; i < times; i += 2) {
        permute_args g{};
        g.x = x + begin * line;
        g.out = out + (begin * times + i) * row;
        g.units = static_cast<ptrdiff_t>(s.w);
        g.in_length = static_cast<ptrdiff_t>(s.c);
        g.out_length = static_cast<ptrdiff_t>(factor * s.c);
        g.rows = static_cast<ptrdiff_t>(end - begin);
        g.ldx = static_cast<ptrdiff_t>(line);
        g.ldo = static_cast<ptrdiff_t>(times * row);
        g.twin = i + 1 < times ? static_cast<ptrdiff_t>(row) : 0;
        permute_rows(t, g, [&](int64_t n, int32_t* index) {
          for (int64_t p = 0; p < n * factor; ++p)
            for (int64_t k = 0; k < s.c; ++k) *index++ = static_cast<int32_t>(p / factor * s.c + k);
        });
      }
    });
  }
  parallel_shares(rows, threads_for(rows * row, kGrainBytes), [&](int64_t begin, int64_t end) {
    static thread_local Scratch<const uint8_t*> pointers;
    const uint8_t** a = pointers.get(ow);
    for (int64_t r = begin; r < end; ++r) {
      uint8_t* to = out + r * row;
      if (r > begin && r % oh > 0 && ys[r % oh] == ys[r % oh - 1]) {  // the row above once more
        copy_row(t, to - row, to, row);
        continue;
      }
      const uint8_t* line = x + (r / oh * s.h + ys[r % oh]) * s.w * s.c;
      for (int64_t i = 0; i < ow; ++i) a[i] = line + xs[i] * s.c;
      t.gather({a, to, static_cast<ptrdiff_t>(ow), static_cast<ptrdiff_t>(s.c), static_cast<ptrdiff_t>(s.c)});
    }
  });
}

namespace {

// Two rows of `pixels` pixels, one behind the other, become one of pairs: `rows` times, to rows ldo bytes apart.
void weave(const KernelTable& t, const uint8_t* from, int64_t rows, int64_t pixels, int64_t c, uint8_t* out, int64_t ldo) {
  permute_args g{};
  g.x = from;
  g.out = out;
  g.units = static_cast<ptrdiff_t>(pixels);
  g.in_length = static_cast<ptrdiff_t>(c);
  g.out_length = static_cast<ptrdiff_t>(2 * c);
  g.rows = static_cast<ptrdiff_t>(rows);
  g.ldx = static_cast<ptrdiff_t>(2 * pixels * c);
  g.ldo = static_cast<ptrdiff_t>(ldo);
  g.in_pieces = 2;
  g.in_pitch = static_cast<ptrdiff_t>(pixels * c);
  if (c <= kWoven && t.isa >= kPermutes) {
    permute_rows(t, g, [&](int64_t n, int32_t* index) {
      for (int64_t i = 0; i < n; ++i)
        for (int64_t side = 0; side < 2; ++side)
          for (int64_t k = 0; k < c; ++k) *index++ = static_cast<int32_t>((side * n + i) * c + k);
    });
    return;
  }
  static thread_local Scratch<const uint8_t*> pointers;
  const uint8_t** a = pointers.get(2 * pixels);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < pixels; ++i) {
      a[2 * i] = from + r * g.ldx + i * c;
      a[2 * i + 1] = a[2 * i] + g.in_pitch;
    }
    t.gather({a, out + r * ldo, static_cast<ptrdiff_t>(2 * pixels), g.in_length, g.in_length});
  }
}

// Rows of an image as floats. Of one thread, which keeps two: neighbours of an interpolation, and both serve more than one row.
class FloatRows {
 public:
  // memory: of two rows, `apart` floats from each other.
  FloatRows(const KernelTable& t, const Encoding8& e, int64_t line, float* memory, int64_t apart)
      : t_(t), e_(e), line_(line), memory_(memory), apart_(apart) {}

  // The row at p, which stays where it is until two others have been asked for.
  const float* at(const uint8_t* p) {
    for (int i = 0; i < 2; ++i)
      if (held_[i] == p) return last_ = i, memory_ + i * apart_;
    last_ ^= 1;
    held_[last_] = p;
    float* f = memory_ + last_ * apart_;
    t_.dequantize({p, f, static_cast<ptrdiff_t>(line_), e_.scale, e_.zero_point, 1, false});
    return f;
  }

 private:
  const KernelTable& t_;
  const Encoding8 e_;
  const int64_t line_;
  float* const memory_;
  const int64_t apart_;
  const uint8_t* held_[2] = {nullptr, nullptr};
  int last_ = 0;
};

constexpr float kSmallestDoubled = 1e-30f;  // scale; a quarter of what a row holds then is no subnormal number

// Whether all pixels but the first and the last lie as mix2 has them: twice as many as in the row, a quarter of the way to a
// neighbour.
bool doubles(const LinearAxis& a, int64_t width) {
  if (a.n != 2 * width) return false;
  for (int64_t i = 1; i < a.n - 1; ++i)
    if (a.lo[i] != (i - 1) / 2 || a.hi[i] != (i + 1) / 2 || a.t[i] != (i % 2 ? 0.25f : 0.75f)) return false;
  return true;
}

}  // namespace

void resize_linear(const uint8_t* x, const ImageShape& s, const Encoding8& e, const LinearAxis& y, const LinearAxis& w,
                   uint8_t* out, const OutputSpec& spec) {
  if (spec.type != OutType::u8) throw Error(Code::dtype, "resize: a linear interpolation of bytes gives uint8");
  const int64_t rows = s.batch * y.n, row = w.n * s.c, line = s.w * s.c;
  if (rows * row == 0) return;
  const KernelTable& t = table();
  const bool doubled = e.scale >= kSmallestDoubled && doubles(w, s.w);
  const bool woven = doubled && s.c % 64 != 0;  // pixels that are no whole registers change places afterwards
  parallel_shares(rows, threads_for(4 * rows * row, kGrainBytes), [&](int64_t begin, int64_t end) {
    static thread_local Scratch<float> floats;
    static thread_local Scratch<uint8_t> bytes;
    // A row between a pixel of zeros and its last one once more, two rows it is made from, and weights.
    const int64_t pixel = (s.c + 15) / 16 * 16, held_line = (line + 15) / 16 * 16;
    float* const f = floats.get(2 * pixel + 3 * held_line + 2 * w.n) + pixel;
    float *rows_of = f + held_line + pixel, *wl = rows_of + 2 * held_line, *wr = wl + w.n;
    std::fill(f - s.c, f, 0.0f);
    const int64_t most = woven ? kBlock / row + 1 : 1;  // rows woven at once
    uint8_t* pairs = bytes.get(woven ? most * row : 0);
    FloatRows lines(t, e, line, rows_of, held_line);
    for (int64_t i = 0; i < w.n; ++i) wl[i] = 1.0f - w.t[i], wr[i] = w.t[i];
    mix_args m{};
    m.f = f;
    m.channels = static_cast<ptrdiff_t>(s.c);
    m.inv_scale = 1.0f / spec.scale;
    m.zero_point = spec.zero_point;
    m.lo = spec.lo;
    m.hi = spec.hi;
    // Pixels [first, first + count) of a row.
    const auto mix = [&](int64_t first, int64_t count, uint8_t* to) {
      m.left = w.lo + first;
      m.right = w.hi + first;
      m.wl = wl + first;
      m.wr = wr + first;
      m.out = to;
      m.pixels = static_cast<ptrdiff_t>(count);
      t.mix(m);
    };
    mix2_args two{};
    two.f = f;
    two.n = static_cast<ptrdiff_t>(line);
    two.channels = m.channels;
    two.run = woven ? two.n : two.channels;
    two.apart = 2 * two.run;
    two.inv_scale = m.inv_scale;
    two.zero_point = m.zero_point;
    two.lo = m.lo;
    two.hi = m.hi;
    two.bounded = 256.0f * e.scale * m.inv_scale < 1073741824.0f;  // between two values lies none larger; false also for NaN
    for (int64_t r = begin; r < end; ++r) {
      const uint8_t* image = x + r / y.n * s.h * line;
      const int64_t i = r % y.n;
      uint8_t* to = out + r * row;
      const float *above = lines.at(image + y.lo[i] * line), *below = lines.at(image + y.hi[i] * line);
      t.lerp({above, below, f, static_cast<ptrdiff_t>(line), 1.0f - y.t[i], y.t[i]});
      if (!doubled) {
        mix(0, w.n, to);
        continue;
      }
      std::copy(f + line - s.c, f + line, f + line);
      const int64_t held = woven ? (r - begin) % most : 0;
      two.even = woven ? pairs + held * row : to;
      two.odd = two.even + two.run;
      t.mix2(two);
      mix(0, 1, two.even);
      mix(w.n - 1, 1, two.odd + (two.n / two.run - 1) * two.apart + two.run - s.c);
      if (woven && (held + 1 == most || r + 1 == end)) weave(t, pairs, held + 1, s.w, s.c, to - held * row, row);
    }
  });
}

void pad_image(const uint8_t* x, const ImageShape& s, int64_t top, int64_t left, int64_t bottom, int64_t right, uint8_t value,
               uint8_t* out) {
  const int64_t oh = top + s.h + bottom, row = (left + s.w + right) * s.c, rows = s.batch * oh, line = s.w * s.c;
  if (rows * row == 0) return;
  const KernelTable& t = table();
  const int64_t before = left * s.c, after = right * s.c, most = kBlock / row + 1;
  const auto fill = [&](uint8_t* to, int64_t bytes) { std::memset(to, value, static_cast<size_t>(bytes)); };
  parallel_shares(rows, threads_for(rows * row, kGrainBytes), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin, count = 0; r < end; r += count) {
      const int64_t image = r / oh, iy = r % oh - top;
      uint8_t* to = out + r * row;
      if (iy < 0 || iy >= s.h) {
        count = std::min(end - r, iy < 0 ? -iy : oh - r % oh);
        fill(to, count * row);
        continue;
      }
      // Some lines, and then what lies between them.
      count = std::min({end - r, s.h - iy, most});
      t.gather({nullptr, to + before, static_cast<ptrdiff_t>(count), static_cast<ptrdiff_t>(line), static_cast<ptrdiff_t>(row),
                x + (image * s.h + iy) * line, static_cast<ptrdiff_t>(line)});
      fill(to, before);
      for (int64_t i = 1; i < count; ++i) fill(to + i * row - after, after + before);
      fill(to + count * row - after, after);
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
  const bool permuted = channels_first || (piece <= kShortPiece && t.isa > Isa::ref);
  parallel_shares(rows, threads_for(rows * line, kGrainBytes), [&](int64_t begin, int64_t end) {
    if (permuted) {
      permute_args g{};
      g.x = x + begin * line;
      g.out = out + begin * line;
      g.units = static_cast<ptrdiff_t>(s.w);
      g.in_length = static_cast<ptrdiff_t>(s.c);
      g.out_length = static_cast<ptrdiff_t>(piece);
      g.rows = static_cast<ptrdiff_t>(end - begin);
      g.ldx = g.ldo = static_cast<ptrdiff_t>(line);
      g.out_pieces = static_cast<ptrdiff_t>(block);
      g.out_pitch = static_cast<ptrdiff_t>(s.w * piece);
      permute_rows(t, g, [&](int64_t pixels, int32_t* index) { depth_order(pixels, block, n, channels_first, index); });
      return;
    }
    static thread_local Scratch<const uint8_t*> pointers;
    const uint8_t** a = pointers.get(s.w);
    for (int64_t r = begin; r < end; ++r)
      for (int64_t sy = 0; sy < block; ++sy) {
        for (int64_t i = 0; i < s.w; ++i) a[i] = x + r * line + i * s.c + sy * piece;
        t.gather({a, out + (r * block + sy) * s.w * piece, static_cast<ptrdiff_t>(s.w), static_cast<ptrdiff_t>(piece),
                  static_cast<ptrdiff_t>(piece)});
      }
  });
}

void space_to_depth(const uint8_t* x, const ImageShape& s, int64_t block, bool channels_first, uint8_t* out) {
  const int64_t ow = s.w / block, rows = s.batch * s.h / block, line = s.w * s.c, piece = block * s.c, c = block * piece;
  if (rows * line == 0) return;
  const KernelTable& t = table();
  const bool permuted = channels_first || (piece <= kShortPiece && t.isa > Isa::ref);
  parallel_shares(rows, threads_for(rows * ow * c, kGrainBytes), [&](int64_t begin, int64_t end) {
    if (permuted) {
      permute_args g{};
      g.x = x + begin * block * line;
      g.out = out + begin * ow * c;
      g.units = static_cast<ptrdiff_t>(ow);
      g.in_length = static_cast<ptrdiff_t>(piece);
      g.out_length = static_cast<ptrdiff_t>(c);
      g.rows = static_cast<ptrdiff_t>(end - begin);
      g.ldx = static_cast<ptrdiff_t>(block * line);
      g.ldo = static_cast<ptrdiff_t>(ow * c);
      g.in_pieces = static_cast<ptrdiff_t>(block);
      g.in_pitch = static_cast<ptrdiff_t>(line);
      permute_rows(
          t, g,
          [&](int64_t pixels, int32_t* to) {
            for (int64_t sy = 0, from = 0; sy < block; ++sy)
              for (int64_t i = 0; i < pixels; ++i)
                for (int64_t sx = 0; sx < block; ++sx)
                  for (int64_t k = 0; k < s.c; ++k, ++from) {
                    const int64_t p = sy * block + sx;
                    to[i * c + (channels_first ? k * block * block + p : p * s.c + k)] = static_cast<int32_t>(from);
                  }
          },
          block == 2 && t.isa >= kPermutes);  // then 64 bytes of the result come from 32 of either row
      return;
    }
    static thread_local Scratch<const uint8_t*> pointers;
    const uint8_t** a = pointers.get(ow * block);
    for (int64_t r = begin; r < end; ++r) {
      for (int64_t i = 0; i < ow; ++i)
        for (int64_t sy = 0; sy < block; ++sy) a[i * block + sy] = x + (r * block + sy) * line + i * piece;
      t.gather({a, out + r * ow * c, static_cast<ptrdiff_t>(ow * block), static_cast<ptrdiff_t>(piece),
                static_cast<ptrdiff_t>(piece)});
    }
  });
}

void permute_channels(const uint8_t* x, int64_t pixels, int64_t c, const int32_t* index, uint8_t* out) {
  if (pixels * c == 0) return;
  const KernelTable& t = table();
  // Blocks that L1 holds: where pixels are larger than the kernel takes at once, it passes over them for each 64 channels.
  const int64_t block = c > 64 * kRegisters ? 16384 / c + 1 : pixels, blocks = (pixels + block - 1) / block;
  const int threads = threads_for(pixels * c, kGrainBytes);
  const auto some = [&](int64_t first, int64_t count) {
    permute_args g{};
    g.x = x + first * c;
    g.out = out + first * c;
    g.units = static_cast<ptrdiff_t>(count);
    g.in_length = g.out_length = static_cast<ptrdiff_t>(c);
    permute_rows(t, g, [&](int64_t n, int32_t* order) {
      for (int64_t i = 0; i < n; ++i)
        for (int64_t k = 0; k < c; ++k) *order++ = static_cast<int32_t>(i * c) + index[k];
    });
  };
  if (blocks == 1) return parallel_shares(pixels, threads, [&](int64_t b, int64_t e) { some(b, e - b); });
  parallel_shares(blocks, threads, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) some(b * block, std::min(block, pixels - b * block));
  });
}

}  // namespace qgemm
