#include "ops/eltwise.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "cpu/error.h"
#include "ops/threads.h"

namespace qgemm {
namespace {

constexpr Isa kReadsPairs = Isa::avx512vbmi;  // from this path on what all pairs of bytes tell is faster than floats

// f(first, count) on shares that start at multiples of 64 elements.
template <class F>
void share_elements(int64_t n, F&& f) {
  const int64_t blocks = (n + 63) / 64;
  parallel_shares(blocks, threads_for(n, kGrainBytes),
                  [&](int64_t b, int64_t e) { f(b * 64, (e * 64 < n ? e * 64 : n) - b * 64); });
}

// How many rows of n bytes make whole vectors; 1 where that would be a long row.
int64_t rows_together(int64_t n) {
  const int64_t together = 64 / std::gcd(n, int64_t(64));
  return n * together <= 4096 ? together : 1;
}

// `count` rows, each `together` of g's rows of n bytes, which lie without gaps; the operand that they share is repeated. A row's
// last vector would be masked, and what it stores in place of an operand would be waited for by the next row's load.
template <class Args>
void wide_rows(KernelFn<Args> kernel, Args g, int64_t n, int64_t together, int64_t count) {
  static thread_local Scratch<uint8_t> scratch;
  const int64_t wide = n * together;
  uint8_t* repeated = scratch.get(wide);
  const uint8_t*& shared = g.ldb == 0 ? g.b : g.a;
  for (int64_t i = 0; i < together; ++i) std::copy_n(shared, n, repeated + i * n);
  shared = repeated;
  g.n = static_cast<ptrdiff_t>(wide);
  g.rows = static_cast<ptrdiff_t>(count);
  if (g.lda != 0) g.lda = g.n;
  if (g.ldb != 0) g.ldb = g.n;
  g.ldo = g.n;
  kernel(g);
}

// `kernel` on rows of two operands, those and the output set in copies of k.
template <class Args>
void over_rows(KernelFn<Args> kernel, Args k, const Operand8& a, const Operand8& b, uint8_t* c, int64_t ldc, int64_t rows,
               int64_t n) {
  if (rows == 1 || (a.repeat == 1 && b.repeat == 1 && a.ld == n && b.ld == n && ldc == n)) {
    k.rows = 1;
    share_elements(rows * n, [&](int64_t first, int64_t count) {
      Args g = k;
      g.a = a.data + first;
      g.b = b.data + first;
      g.out = c + first;
      g.n = static_cast<ptrdiff_t>(count);
      kernel(g);
    });
    return;
  }
  k.n = static_cast<ptrdiff_t>(n);
  k.lda = a.repeat == 1 ? static_cast<ptrdiff_t>(a.ld) : 0;
  k.ldb = b.repeat == 1 ? static_cast<ptrdiff_t>(b.ld) : 0;
  k.ldo = static_cast<ptrdiff_t>(ldc);
  const Operand8& walked = a.repeat == 1 ? a : b;
  const bool one_repeats = (a.repeat == 1) != (b.repeat == 1);
  const int64_t together = one_repeats && walked.ld == n && ldc == n ? rows_together(n) : 1;
  parallel_shares(rows, threads_for(rows * n, kGrainBytes), [&](int64_t begin, int64_t end) {
    Args g = k;
    // From one change of a repeated row to the next.
    for (int64_t r = begin, next; r < end; r = next) {
      next = end;
      if (a.repeat != 1) next = std::min(next, (r / a.repeat + 1) * a.repeat);
      if (b.repeat != 1) next = std::min(next, (r / b.repeat + 1) * b.repeat);
      g.a = a.data + r / a.repeat * a.ld;
      g.b = b.data + r / b.repeat * b.ld;
      g.out = c + r * ldc;
      g.rows = static_cast<ptrdiff_t>(next - r);
      if (together > 1 && next - r >= 2 * together) {
        const int64_t whole = (next - r) / together;
        wide_rows(kernel, g, n, together, whole);
        r += whole * together;
        if (r == next) continue;
        if (g.lda != 0) g.a = a.data + r * a.ld;
        if (g.ldb != 0) g.b = b.data + r * b.ld;
        g.out = c + r * ldc;
        g.rows = static_cast<ptrdiff_t>(next - r);
      }
      kernel(g);
    }
  });
}

template <class Args>
Args encoded(const Encoding8& a, const Encoding8& b, const OutputSpec& out) {
  if (out.type != OutType::u8)
    throw Error(Code::dtype, "a sum or product of two quantized tensors is uint8; dequantize it if need be");
  Args k{};
  k.a_scale = a.scale;
  k.b_scale = b.scale;
  k.inv_scale = 1.0f / out.scale;
  k.a_zero_point = a.zero_point;
  k.b_zero_point = b.zero_point;
  k.zero_point = out.zero_point;
  k.lo = out.lo;
  k.hi = out.hi;
  return k;
}

sum_args by_tables(const SumTables& t, const OutputSpec& out) {
  sum_args s{};
  s.rank_a = t.rank_a;
  s.rank_b = t.rank_b;
  s.whole_a = t.whole_a;
  s.whole_b = t.whole_b;
  s.lo = out.lo;
  s.hi = out.hi;
  s.wide = t.wide;
  s.first_a = t.first_a;
  s.first_b = t.first_b;
  return s;
}

}  // namespace

void check_encoding(const char* what, double scale, int64_t zero_point) {
  const float s = static_cast<float>(scale);
  if (!(std::isfinite(s) && s > 0))
    throw Error(Code::quantization, std::string(what) + "_scale must be finite and > 0 in float32, got " + std::to_string(scale) +
                                        "; recalibrate its quantizer");
  if (zero_point < 0 || zero_point > 255)
    throw Error(Code::quantization, std::string(what) + "_zero_point must lie in 0..255, got " + std::to_string(zero_point));
}

void add(const uint8_t* a, const Encoding8& ea, const uint8_t* b, const Encoding8& eb, uint8_t* c, int64_t n,
         const OutputSpec& out) {
  add({a, n, ea}, {b, n, eb}, c, n, 1, n, out);
}

void add(const Operand8& a, const Operand8& b, uint8_t* c, int64_t ldc, int64_t rows, int64_t n, const OutputSpec& out) {
  add(a, b, c, ldc, rows, n, out, nullptr);
}

void add(const Operand8& a, const Operand8& b, uint8_t* c, int64_t ldc, int64_t rows, int64_t n, const OutputSpec& out,
         const SumTables* tables) {
  const auto k = encoded<add_args>(a.encoding, b.encoding, out);
  if (rows <= 0 || n <= 0) return;
  const KernelTable& t = table();
  if (!tables || !reads_pairs()) return over_rows(t.add, k, a, b, c, ldc, rows, n);
  over_rows(t.sum, by_tables(*tables, out), a, b, c, ldc, rows, n);
}

void mul(const Operand8& a, const Operand8& b, uint8_t* c, int64_t ldc, int64_t rows, int64_t n, const OutputSpec& out) {
  mul(a, b, c, ldc, rows, n, out, nullptr);
}

void mul(const Operand8& a, const Operand8& b, uint8_t* c, int64_t ldc, int64_t rows, int64_t n, const OutputSpec& out,
         const ProductFactors* factors) {
  auto k = encoded<mul_args>(a.encoding, b.encoding, out);
  k.factor = factors ? factors->of : nullptr;
  if (rows > 0 && n > 0) over_rows(table().mul, k, a, b, c, ldc, rows, n);
}

namespace {

constexpr int kBytes = 256;

// Every pair of bytes, and behind them what the kernel makes of each.
template <class Args>
std::vector<uint8_t> all_pairs(KernelFn<Args> kernel, Args g) {
  std::vector<uint8_t> pairs(3 * kBytes * kBytes);
  uint8_t *const as = pairs.data(), *const bs = as + kBytes * kBytes;
  for (int i = 0; i < kBytes * kBytes; ++i) as[i] = static_cast<uint8_t>(i / kBytes), bs[i] = static_cast<uint8_t>(i % kBytes);
  g.a = as;
  g.b = bs;
  g.out = bs + kBytes * kBytes;
  g.rows = 1;
  g.n = kBytes * kBytes;
  kernel(g);
  return pairs;
}

}  // namespace

std::shared_ptr<const ProductFactors> product_factors(const Encoding8& ea, const Encoding8& eb, const OutputSpec& out) {
  const auto k = encoded<mul_args>(ea, eb, out);
  const std::vector<uint8_t> pairs = all_pairs(table().mul, k);
  const uint8_t* want = pairs.data() + 2 * kBytes * kBytes;
  const auto made = std::make_shared<ProductFactors>();
  for (int b = 0; b < kBytes; ++b) {
    const auto same = [&](float factor) {
      for (int a = 0; a < kBytes; ++a) {
        const double q = std::nearbyint(static_cast<double>(a - ea.zero_point) * factor + out.zero_point);  // one rounding
        if (!(std::fabs(q) < 32768) || std::clamp(q, double(out.lo), double(out.hi)) != want[a * kBytes + b]) return false;
      }
      return true;
    };
    float near = ea.scale * (eb.scale * static_cast<float>(b - eb.zero_point)) * k.inv_scale, below = near, above = near;
    bool found = same(near);
    for (int step = 0; step < 4 && !found; ++step) {
      below = std::nextafter(below, -INFINITY);
      above = std::nextafter(above, INFINITY);
      if ((found = same(below))) near = below;
      if (!found && (found = same(above))) near = above;
    }
    if (!found) return nullptr;
    made->of[b] = near;
  }
  return made;
}

namespace {

// Steps of a byte as sizes, of which those below the byte `first` are negative. What lies further below zero than a byte counts
// takes the whole sum away, as 255 does. False: a positive size is too large, or none is positive.
bool sizes(const int (&steps)[kBytes], int8_t (&size)[kBytes], int32_t& first) {
  first = static_cast<int32_t>(std::find_if(steps, steps + kBytes, [](int s) { return s >= 0; }) - steps);
  for (int i = 0; i < kBytes; ++i) {
    if (steps[i] > 254 || (i >= first && steps[i] < 0)) return false;
    size[i] = static_cast<int8_t>(std::min(std::abs(steps[i]), 255));
  }
  return first < kBytes;
}

}  // namespace

bool reads_pairs() { return table().isa >= kReadsPairs; }

// With u = xa / so and v = xb / so + 1/2 the sum is floor(u + v): the whole parts of both, and one more where the fractions reach
// 1 together. Of b's fractions only their order matters, and of a's only how many of those stay below the carry. Which carry is
// read off the definition itself, roundings included; a row of pairs that no threshold explains has none.
std::shared_ptr<const SumTables> sum_tables(const Encoding8& ea, const Encoding8& eb, const OutputSpec& out) {
  const auto made = std::make_shared<SumTables>();
  SumTables& tables = *made;
  const auto definition = encoded<add_args>(ea, eb, out);
  const std::vector<uint8_t> pairs = all_pairs(table().add, definition);
  const uint8_t* const want = pairs.data() + 2 * kBytes * kBytes;

  const double inverse = definition.inv_scale;
  double v[kBytes], fraction[kBytes];
  int whole_a[kBytes], whole_b[kBytes];
  for (int i = 0; i < kBytes; ++i) {
    const double u = std::floor(double(ea.scale * static_cast<float>(i - ea.zero_point)) * inverse);
    v[i] = double(eb.scale * static_cast<float>(i - eb.zero_point)) * inverse + 0.5;
    if (!(std::fabs(u) < 1024 && std::fabs(v[i]) < 1024)) return nullptr;  // far coarser than the result: no byte holds it
    whole_a[i] = static_cast<int>(u);
    whole_b[i] = static_cast<int>(std::floor(v[i])) + out.zero_point;
    fraction[i] = v[i] - std::floor(v[i]);
  }
  for (int j = 0; j < kBytes; ++j)
    tables.rank_b[j] =
        static_cast<uint8_t>(std::count_if(fraction, fraction + kBytes, [&](double other) { return other < fraction[j]; }));

  // Both operands' whole steps in int8: `less_a` and `less_b` are subtracted, 128 together. Room for one more step in either.
  const int a_from = whole_a[kBytes - 1] + 1 - 127, a_to = whole_a[0] - 1 + 128;
  const int b_from = whole_b[kBytes - 1] + 1 - 127, b_to = whole_b[0] + 128;
  const int less_a = std::max(a_from, 128 - b_to), less_b = 128 - less_a;
  tables.wide = less_a > a_to || less_b < b_from || less_b > b_to;

  for (int i = 0; i < kBytes; ++i) {
    bool found = false;
    for (const int more : {0, 1, -1}) {
      int least = 0, most = kBytes - 1;  // of the largest rank that does not carry
      for (int j = 0; j < kBytes && least <= most; ++j) {
        const int s = whole_a[i] + more + whole_b[j], q = want[i * kBytes + j], rank = tables.rank_b[j];
        const bool without = std::clamp(s, out.lo, out.hi) == q, with = std::clamp(s + 1, out.lo, out.hi) == q;
        if (!without && !with) most = -1;
        if (!without) most = std::min(most, rank - 1);
        if (!with) least = std::max(least, rank);
      }
      if (least > most) continue;
      whole_a[i] += more;
      tables.rank_a[i] = static_cast<uint8_t>(most);
      found = true;
      break;
    }
    if (!found) return nullptr;
  }
  if (tables.wide) {
    if (!sizes(whole_a, tables.whole_a, tables.first_a) || !sizes(whole_b, tables.whole_b, tables.first_b)) return nullptr;
  } else {
    for (int i = 0; i < kBytes; ++i) {
      tables.whole_a[i] = static_cast<int8_t>(whole_a[i] - less_a);
      tables.whole_b[i] = static_cast<int8_t>(whole_b[i] - less_b);
    }
  }

  const std::vector<uint8_t> got = all_pairs(table().sum, by_tables(tables, out));
  return std::equal(want, want + kBytes * kBytes, got.data() + 2 * kBytes * kBytes) ? made : nullptr;
}

void lut(const uint8_t* x, const uint8_t* table256, uint8_t* y, int64_t n) {
  const KernelTable& t = table();
  share_elements(n, [&](int64_t first, int64_t count) {
    t.lut({x + first, table256, y + first, static_cast<ptrdiff_t>(count)});
  });
}

void lut(const uint8_t* x, int64_t ldx, const uint8_t* table256, uint8_t* y, int64_t ldy, int64_t rows, int64_t n) {
  if (rows == 1 || (ldx == n && ldy == n)) return lut(x, table256, y, rows * n);
  const KernelTable& t = table();
  parallel_shares(rows, threads_for(rows * n, kGrainBytes), [&](int64_t begin, int64_t end) {
    t.lut({x + begin * ldx, table256, y + begin * ldy, static_cast<ptrdiff_t>(n), static_cast<ptrdiff_t>(end - begin),
           static_cast<ptrdiff_t>(ldx), static_cast<ptrdiff_t>(ldy)});
  });
}

}  // namespace qgemm
