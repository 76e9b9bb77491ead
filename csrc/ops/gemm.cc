#include "ops/gemm.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <string>

#include "cpu/error.h"
#include "ops/postop.h"
#include "ops/quantize.h"
#include "ops/threads.h"

namespace qgemm {
namespace {

// A rows that stay in L2 while every panel passes over them.
constexpr int64_t kBlockBytes = 256 * 1024;
constexpr int kMaxRows = 16;           // most rows of any register tile
constexpr int64_t kNibbleRows = 64;    // most rows that read a 4-bit panel as it is stored
constexpr int64_t kQuantizeMacs = 24;  // multiply-adds that take as long as quantizing one element
constexpr int64_t kL2Bytes = 1 << 20;
constexpr int64_t kAheadBytes = 320 * 1024;  // largest panel that is prefetched while another is in use
// Multiply-adds in the time that reading a weight takes: with few rows a product is as slow as its weights arrive.
constexpr int64_t kReadMacs = 3;
// Rows a thread must get before a product is shared by rows: a few tiles of the highest kernel.
constexpr int64_t kOwnRows = 32;
constexpr int64_t kPartProducts = 4096;  // least K of a thread's part where K is cut

// How much work a product is, in multiply-adds.
int64_t macs(const PackedView& w, int64_t m) { return std::max(m, kReadMacs) * w.n * std::max<int64_t>(w.k, 1); }

struct Job {
  const KernelTable& t;
  const PackedView& w;
  const uint8_t* a;
  ptrdiff_t lda;
  char* c;
  ptrdiff_t ldc;
  const OutputSpec& out;
  const RowParams& rows;
  const Epilogue& e;
  int64_t size;
};

// A panel as a kernel reads it: bytes for gemm, or nibbles as they are stored for gemm4.
struct Panel {
  const int8_t* b;
  bool nibbles;

  void run(const KernelTable& t, const GemmKernel& kernel, const gemm_args& g) const {
    if (nibbles)
      t.gemm4(gemm4_args{g});
    else
      kernel.fn(g);
  }
};

// Panel p for `rows` rows. Nibbles are worked on as they are stored where rows are few: expanded they would be written and read
// once more, which many rows share.
Panel panel_for(const KernelTable& t, const PackedView& w, int64_t p, int64_t rows, int8_t* scratch) {
  const int64_t kc = w.group_size > 0 ? w.group_size : w.kc;
  if (w.bits == 4 && rows <= kNibbleRows && w.panel_width(p) % 32 == 0 && kc <= kMaxNibbleProducts)
    return {reinterpret_cast<const int8_t*>(w.panel(0, p)), true};
  return {panel_as_s8(t, w, 0, p, scratch), false};
}

// How many of the panels [p, end) one call of the kernel takes: those that are whole, where `rows` are one tile.
int64_t panels_at_once(const KernelTable& t, const PackedView& w, int64_t p, int64_t end, int64_t rows) {
  if (w.bits == 4 || w.group_size > 0 || rows > t.gemm_for(kPanel).mr) return 1;
  return std::max<int64_t>(1, std::min(end, w.n / kPanel) - p);
}

// Rows [m0, m1) of `count` panels. next: the panel that comes after it, to be prefetched meanwhile, or null.
void panel_rows(const Job& j, int64_t p, const Panel& b, int64_t m0, int64_t m1, int64_t count = 1,
                const int8_t* next = nullptr) {
  const int width = j.w.panel_width(p);
  const int64_t rows = m1 - m0;
  const bool grouped = j.w.group_size > 0;
  const GemmKernel& kernel = grouped ? j.t.gemm_for(width) : gemm_kernel(j.t, j.w, width, rows);
  gemm_args g{};
  g.lda = j.lda;
  g.taps = 1;
  g.width = width;
  g.n = j.w.panel_columns(p);
  g.col = static_cast<int32_t>(p * kPanel);
  if (!grouped) {
    g.base = j.a + m0 * j.lda;
    g.m = static_cast<int32_t>(rows);
    g.tile_rows = kernel.mr;
    g.row = static_cast<int32_t>(m0);
    g.kc = static_cast<int32_t>(j.w.kc);
    g.b = b.b;
    g.ep = &j.e;
    g.c = j.c + m0 * j.ldc + p * kPanel * j.size;
    g.ldc = j.ldc;
    g.next = next;
    g.panels = static_cast<int32_t>(count);
    g.panel_bytes = j.w.panel_stride;
    b.run(j.t, kernel, g);
    return;
  }
  alignas(64) float acc[kMaxRows * kPanel];
  const int64_t tiles = (rows + kernel.mr - 1) / kernel.mr;
  for (int64_t i = 0; i < tiles; ++i) {
    const int64_t r0 = m0 + rows * i / tiles, r1 = m0 + rows * (i + 1) / tiles;
    g.m = static_cast<int32_t>(r1 - r0);
    g.row = static_cast<int32_t>(r0);
    char* c = j.c + r0 * j.ldc + p * kPanel * j.size;
    // Groups in ascending order: the fp32 sum's order is part of the definition.
    for (int64_t x = 0; x < int64_t(g.m) * width; ++x) acc[x] = 0.0f;
    Epilogue e = j.e;
    e.out = OutType::f32_accumulate;
    g.ep = &e;
    g.c = acc;
    g.ldc = static_cast<ptrdiff_t>(width) * 4;
    for (int64_t q = 0; q < j.w.group_count; ++q) {
      const int64_t k0 = q * j.w.group_size, k1 = k0 + j.w.group_size < j.w.k ? k0 + j.w.group_size : j.w.k;
      e.scale = j.w.group_scale + q * j.w.n_padded;
      e.colsum = j.w.group_colsum + q * j.w.n_padded;
      // With per-row zero points (dynamic) only the int32 bias, which belongs to the first group, is left of the correction.
      e.correction = j.rows.zero_point ? (q == 0 ? j.w.bias_int32 : j.w.zeros) : j.w.group_correction + q * j.w.n_padded;
      g.base = j.a + r0 * j.lda + k0;
      g.kc = static_cast<int32_t>(k1 - k0);
      g.b = b.b + k0 * width / (b.nibbles ? 2 : 1);
      b.run(j.t, kernel, g);
    }
    group_finish_args f{};
    f.f = acc;
    f.m = g.m;
    f.n = g.n;
    f.width = width;
    f.x_scale = j.rows.scale ? 1.0f : j.w.x_scale;
    f.ep = &j.e;
    f.row = g.row;
    f.col = g.col;
    f.c = c;
    f.ldc = j.ldc;
    j.t.group_finish(f);
  }
}

void check_linear(const PackedView& w, const OutputSpec& out, int64_t m, bool row_terms) {
  if (w.kind != PackedKind::linear) throw Error(Code::packed, "this weight was packed for a convolution; use pack_linear");
  if (w.group_size > 0 && out.type == OutType::s32)
    throw Error(Code::dtype,
                "a weight with group_size has a scale per group, so it has no int32 output; ask for float32 or uint8");
  if (m > std::numeric_limits<int32_t>::max() && (row_terms || w.has_w_zero_point))
    throw Error(Code::shape,
                "M = " + std::to_string(m) + " rows with terms of their own are more than 2^31 - 1; call it in parts");
}

// In how many blocks of rows a product runs: each block's A (`bytes` a row) stays in L2 while the panels pass over it, and there
// are enough blocks for every thread when the panels alone are too few.
int64_t row_blocks(const KernelTable& t, const PackedView& w, int64_t m, int64_t bytes, int threads) {
  const int mr = t.gemm_for(w.panel_width(0)).mr;
  int64_t block = kBlockBytes / (bytes > 0 ? bytes : 1) / mr * mr;
  if (block < 4 * mr) block = 4 * mr;
  const int64_t blocks = (m + block - 1) / block, panels = w.panels_per_group;
  if (threads == 1 || panels * blocks >= 3 * threads) return blocks;
  const int64_t most = (m + mr - 1) / mr, want = (3 * threads + panels - 1) / panels;
  return want > most ? most : want > blocks ? want : blocks;
}

// Fewer panels and blocks of rows than threads, and a long K: the threads take parts of K, whose exact sums are added in int32 by
// the caller, which then stores the outputs. 0 or 1: K stays whole.
int64_t k_shares(const PackedView& w, int64_t m, int64_t shares, int threads) {
  const bool pieces =
      w.bits == 4 && w.panel_width(w.panels_per_group - 1) % 32 != 0;  // a part must begin between pieces of nibbles
  if (shares >= threads || w.group_size > 0 || pieces || m > kMaxRows) return 1;
  const int64_t parts = threads / shares, most = w.kc / kPartProducts;
  return parts < most ? parts : most;
}

void linear_parts(const Job& j, int64_t m, int64_t parts, int threads) {
  const PackedView& w = j.w;
  const int64_t panels = w.panels_per_group, columns = w.n_padded, part_size = m * columns;
  static thread_local Scratch<int32_t> memory;
  int32_t* const sums = memory.get(parts * part_size + columns);
  int32_t* const zeros = sums + parts * part_size;
  for (int64_t n = 0; n < columns; ++n) zeros[n] = 0;
  Epilogue first = j.e;  // the first part's sums take all integer terms with them
  first.out = OutType::s32;
  Epilogue other{};
  other.correction = zeros;
  other.out = OutType::s32;
  parallel_shares(panels * parts, threads, [&](int64_t begin, int64_t end) {
    static thread_local Scratch<int8_t> expanded;
    int8_t* scratch = w.bits == 4 ? expanded.get((w.panel_s8_bytes(kPanel) + 127) / 128 * 128) : nullptr;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t p = i % panels, part = i / panels, k4 = w.k4();
      const int64_t k0 = k4 * part / parts * 4, k1 = std::min(w.kc, k4 * (part + 1) / parts * 4);
      const int width = w.panel_width(p);
      const Panel panel = panel_for(j.t, w, p, m, scratch);
      const GemmKernel& kernel = j.t.gemm_for(width);
      gemm_args g{};
      g.base = j.a + k0;
      g.lda = j.lda;
      g.m = static_cast<int32_t>(m);
      g.tile_rows = kernel.mr;
      g.taps = 1;
      g.kc = static_cast<int32_t>(k1 - k0);
      g.b = panel.b + k0 * width / (panel.nibbles ? 2 : 1);
      g.width = g.n = width;
      g.ep = part == 0 ? &first : &other;
      g.col = static_cast<int32_t>(p * kPanel);
      g.c = sums + part * part_size + p * kPanel;
      g.ldc = columns * 4;
      panel.run(j.t, kernel, g);
    }
  });
  for (int64_t part = 1; part < parts; ++part)
    for (int64_t i = 0; i < part_size; ++i)
      sums[i] = static_cast<int32_t>(static_cast<uint32_t>(sums[i]) + static_cast<uint32_t>(sums[part * part_size + i]));
  Epilogue last = j.e;
  last.correction = zeros;
  last.row_zero_point = last.row_sum = last.row_term = nullptr;
  for (int64_t r = 0; r < m; ++r) {
    last.row_scale = j.e.row_scale ? j.e.row_scale + r : nullptr;
    j.t.requantize({sums + r * columns, static_cast<int32_t>(w.n), &last, j.c + r * j.ldc});
  }
}

// High and low bytes of n values, the high ones ^ flip.
void split16(const uint16_t* __restrict a, int64_t n, uint8_t flip, uint8_t* __restrict hi, uint8_t* __restrict lo) {
  for (int64_t i = 0; i < n; ++i) hi[i] = static_cast<uint8_t>(a[i] >> 8 ^ flip);
  for (int64_t i = 0; i < n; ++i) lo[i] = static_cast<uint8_t>(a[i]);
}

}  // namespace

const int8_t* panel_ahead(const KernelTable& t, const PackedView& w, int64_t set, int64_t p, int64_t rows) {
  if (w.bits == 4 || w.group_size > 0 || rows <= t.gemm_for(kPanel).mr || w.group_panel_bytes() < kL2Bytes ||
      w.panel_stride > kAheadBytes)
    return nullptr;
  return reinterpret_cast<const int8_t*>(w.panel(set, (p + 1) % w.panels_per_group));
}

size_t out_size(OutType t) { return t == OutType::u8 || t == OutType::s8 ? 1 : 4; }

Epilogue make_epilogue(const PackedView& w, const OutputSpec& out, const RowParams& rows) {
  Epilogue e{};
  e.correction = rows.zero_point ? w.bias_int32 : w.correction;
  e.scale = rows.scale ? w.w_scale : w.scale;
  e.bias = w.bias;
  e.colsum = w.colsum;
  e.w_zero_point = w.w_zero_point;
  e.row_zero_point = rows.zero_point;
  e.row_scale = rows.scale;
  e.row_term = rows.term;
  e.inv_scale = 1.0f / out.scale;
  e.zero_point = out.zero_point;
  e.lo = out.lo;
  e.hi = out.hi;
  e.f_lo = out.f_lo;
  e.f_hi = out.f_hi;
  e.out = out.type;
  e.bounded = !rows.zero_point && !rows.scale && w.y_bound * e.inv_scale < 1073741824.0f;
  return e;
}

const int8_t* panel_as_s8(const KernelTable& t, const PackedView& w, int64_t group, int64_t panel, int8_t* scratch) {
  const uint8_t* stored = w.panel(group, panel);
  if (w.bits != 4) return reinterpret_cast<const int8_t*>(stored);
  unpack4_args u{};
  u.src = stored;
  u.dst = scratch;
  u.bytes = (w.panel_s8_bytes(w.panel_width(panel)) + 127) / 128 * 128;
  t.unpack4(u);
  return scratch;
}

void linear(const PackedView& w, const uint8_t* a, int64_t m, ptrdiff_t lda, void* c, ptrdiff_t ldc, const OutputSpec& out,
            const RowParams& rows, const PostOp* post) {
  linear_on(table(), w, a, m, lda, c, ldc, out, rows, threads_for(macs(w, m), kGrainMacs), post);
}

void linear_on(const KernelTable& t, const PackedView& w, const uint8_t* a, int64_t m, ptrdiff_t lda, void* c, ptrdiff_t ldc,
               const OutputSpec& out, const RowParams& rows, int threads, const PostOp* post) {
  check_linear(w, out, m, rows.scale || rows.zero_point || rows.term);
  if (post) post->check("linear", out);
  if (m == 0 || w.n == 0) return;
  Epilogue e = make_epilogue(w, out, rows);
  if (w.has_w_zero_point) {
    static thread_local Scratch<int32_t> sums;
    int32_t* s = sums.get(m);
    parallel_shares(m, m * w.k > kGrainBytes * threads ? threads : 1, [&](int64_t begin, int64_t end) {
      t.row_sum({a + begin * lda, lda, end - begin, w.k, s + begin});
    });
    e.row_sum = s;
  }
  const Job job{t, w, a, lda, static_cast<char*>(c), ldc, out, rows, e, static_cast<int64_t>(out_size(out.type))};
  const int64_t panels = w.panels_per_group;
  const int64_t blocks = row_blocks(t, w, m, w.k, threads);
  if (!post || !post->any()) {
    const int64_t parts = k_shares(w, m, blocks * panels, threads);
    if (parts > 1) return linear_parts(job, m, parts, threads);
  }
  parallel_shares(blocks * panels, threads, [&](int64_t begin, int64_t end) {
    static thread_local Scratch<int8_t> expanded;
    int8_t* scratch = w.bits == 4 ? expanded.get((w.panel_s8_bytes(kPanel) + 127) / 128 * 128) : nullptr;
    for (int64_t i = begin, count = 1; i < end; i += count) {
      const int64_t p = i % panels, b = i / panels;
      const int64_t first = m * b / blocks, last = m * (b + 1) / blocks;
      const Panel panel = panel_for(t, w, p, last - first, scratch);
      if (!post || !post->any()) {
        count = panels_at_once(t, w, p, std::min(panels, end - i + p), last - first);
        panel_rows(job, p, panel, first, last, count, i + 1 < end ? panel_ahead(t, w, 0, p, last - first) : nullptr);
        continue;
      }
      const int mr = t.gemm_for(w.panel_width(p)).mr;
      const int64_t strip = kPostRows / mr * mr;
      for (int64_t r = first; r < last; r += strip) {
        const int64_t end_row = std::min(last, r + strip);
        panel_rows(job, p, panel, r, end_row);
        apply_post(t, *post, out, static_cast<char*>(c) + r * ldc + p * kPanel, ldc, r, end_row - r, p * kPanel,
                   w.panel_columns(p));
      }
    }
  });
}

void linear16(const PackedView& w, const uint16_t* a, int64_t m, int64_t lda, void* c, ptrdiff_t ldc, const OutputSpec& out,
              bool out16, const Encoding16& x) {
  if (w.kind != PackedKind::linear) throw Error(Code::packed, "this weight was packed for a convolution; use pack_linear");
  if (!w.dynamic) throw Error(Code::packed, "16-bit activations need a weight packed with the default x_scale and x_zero_point");
  if (w.group_size > 0)
    throw Error(Code::packed, "16-bit activations do not combine with group_size; pack the weight per channel");
  // Packing proves the sums of centred weights. Those of the stored ones wrap, which is harmless in int32 but not in fp64.
  if (w.has_w_zero_point && w.k > std::numeric_limits<int32_t>::max() / (255 * 128))
    throw Error(Code::overflow, "K = " + std::to_string(w.k) +
                                    " is too large for 16-bit activations and a weight with zero points; split the layer over K");
  if (m == 0 || w.n == 0) return;
  const KernelTable& t = table();
  // Column terms of the call's own encoding. Zero points of the weight need the row sums of the 16-bit input as well.
  static thread_local Scratch<double> columns;
  static thread_local Scratch<float> scales;
  static thread_local Scratch<int32_t> zero;
  double* correction = columns.get(w.n_padded);
  float* scale = scales.get(w.n_padded);
  int32_t* zeros = zero.get(w.n_padded);
  bool finite = true;
  for (int64_t n = 0; n < w.n_padded; ++n) {
    correction[n] = double(w.bias_int32[n]) - double(x.zero_point) * double(w.colsum[n]);
    scale[n] = static_cast<float>(double(x.scale) * double(w.w_scale[n]));
    finite = finite && scale[n] <= std::numeric_limits<float>::max();
    zeros[n] = 0;
  }
  if (!finite)
    throw Error(Code::quantization, "x_scale times a weight scale is not finite in float32; recalibrate x's quantizer");
  const uint8_t flip = x.is_signed ? 0x80 : 0;
  const int threads = threads_for(macs(w, 2 * m), kGrainMacs);
  // As in linear_dynamic: rows are taken apart by the thread that multiplies them.
  const bool by_rows = m >= kOwnRows * threads;
  parallel_shares(by_rows ? m : w.panels_per_group, threads, [&](int64_t begin, int64_t end) {
    static thread_local Scratch<uint8_t> halves;
    static thread_local Scratch<int8_t> expanded;
    static thread_local Scratch<int32_t> sums;
    static thread_local Scratch<double> shifted;
    const int64_t first = by_rows ? begin : 0, count = by_rows ? end - begin : m;
    const int64_t p0 = by_rows ? 0 : begin, p1 = by_rows ? w.panels_per_group : end;
    const int64_t blocks = row_blocks(t, w, count, 2 * w.k, 1), most = (count + blocks - 1) / blocks;
    uint8_t* bytes = halves.get(2 * most * w.k);  // a row of high bytes, a row of low ones, and so on: one product for both
    int8_t* scratch = w.bits == 4 ? expanded.get((w.panel_s8_bytes(kPanel) + 127) / 128 * 128) : nullptr;
    int32_t* sum = w.has_w_zero_point ? sums.get(2 * most) : nullptr;
    double* row_correction = w.has_w_zero_point ? shifted.get(kPanel) : nullptr;
    alignas(64) int32_t acc[2 * kMaxRows * kPanel];
    alignas(64) float y[kMaxRows * kPanel];
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t m0 = first + count * b / blocks, rows = first + count * (b + 1) / blocks - m0;
      for (int64_t i = 0; i < rows; ++i) split16(a + (m0 + i) * lda, w.k, flip, bytes + 2 * i * w.k, bytes + (2 * i + 1) * w.k);
      if (sum) t.row_sum({bytes, w.k, 2 * rows, w.k, sum});
      for (int64_t p = p0; p < p1; ++p) {
        const int width = w.panel_width(p), columns_p = w.panel_columns(p);
        const GemmKernel& kernel = t.gemm_for(width);
        const Panel panel = panel_for(t, w, p, 2 * rows, scratch);
        Epilogue raw{};
        raw.correction = zeros;
        raw.out = OutType::s32;
        const int64_t height = 2 * kMaxRows / kernel.mr * kernel.mr / 2;  // rows whose two halves fill tiles
        for (int64_t r0 = 0; r0 < rows; r0 += height) {
          gemm_args g{};
          g.base = bytes + 2 * r0 * w.k;
          g.lda = w.k;
          g.m = static_cast<int32_t>(2 * std::min(height, rows - r0));
          g.tile_rows = kernel.mr;
          g.taps = 1;
          g.kc = static_cast<int32_t>(w.kc);
          g.b = panel.b;
          g.width = width;
          g.n = columns_p;
          g.ep = &raw;
          g.c = acc;
          g.ldc = static_cast<ptrdiff_t>(width) * 4;
          panel.run(t, kernel, g);
          combine16_args q{acc,      g.m / 2,  columns_p, width, correction + p * kPanel, scale + p * kPanel, w.bias + p * kPanel,
                           out.f_lo, out.f_hi, nullptr,   0};
          char* to = static_cast<char*>(c) + (m0 + r0) * ldc;
          const bool floats = out.type == OutType::f32;
          q.c = floats ? reinterpret_cast<float*>(to) + p * kPanel : y;
          q.ldc = floats ? ldc : static_cast<ptrdiff_t>(width) * 4;
          if (!sum) {
            t.combine16(q);
          } else {
            for (int r = 0; r < q.m; ++r) {
              const int32_t* both = sum + 2 * (r0 + r);
              const double row = 256.0 * both[0] + both[1];
              for (int j = 0; j < width; ++j)
                row_correction[j] = correction[p * kPanel + j] - row * double(w.w_zero_point[p * kPanel + j]);
              combine16_args one = q;
              one.sums += 2 * r * width;
              one.m = 1;
              one.correction = row_correction;
              one.c = reinterpret_cast<float*>(reinterpret_cast<char*>(q.c) + r * q.ldc);
              t.combine16(one);
            }
          }
          if (!floats)
            for (int r = 0; r < q.m; ++r)
              t.quantize({y + r * width, to + r * ldc + p * kPanel * (out16 ? 2 : 1), columns_p, 1.0f / out.scale, out.zero_point,
                          out.lo, out.hi, out16 ? 2 : 1});
        }
      }
    }
  });
}

void linear_dynamic(const PackedView& w, const float* x, int64_t m, ptrdiff_t ldx, float* c, ptrdiff_t ldc, bool per_row,
                    bool symmetric, float lo, float hi) {
  OutputSpec out;
  out.type = OutType::f32;
  out.f_lo = lo;
  out.f_hi = hi;
  const KernelTable& t = table();
  const int threads = threads_for(macs(w, m) + m * kQuantizeMacs * w.k, kGrainMacs);
  if (!per_row || w.n == 0) {  // one encoding for all rows: none can be multiplied before the last one was seen
    static thread_local Scratch<uint8_t> quantized;
    static thread_local Scratch<float> scales;
    static thread_local Scratch<int32_t> zero_points;
    uint8_t* q = quantized.get(m * w.k);
    float* s = scales.get(m);
    int32_t* z = zero_points.get(m);
    quantize_dynamic(x, m, w.k, ldx, q, s, z, per_row, symmetric);
    for (int64_t i = 1; i < m && !per_row; ++i) s[i] = s[0], z[i] = z[0];
    linear_on(t, w, q, m, w.k, c, ldc, out, {z, s}, threads);
    return;
  }
  check_linear(w, out, m, true);
  if (m == 0) return;
  // Rows are quantized by the thread that multiplies them, a block that stays in L2 at a time. With rows for every thread, each
  // has its own; with few, each has some of the panels and quantizes every row again, which costs less than waiting for another
  // core to do it and fetching the bytes from there.
  const bool by_rows = m >= kOwnRows * threads;
  std::atomic<int64_t> bad{std::numeric_limits<int64_t>::max()};
  parallel_shares(by_rows ? m : w.panels_per_group, threads, [&](int64_t begin, int64_t end) {
    static thread_local Scratch<uint8_t> quantized;
    static thread_local Scratch<float> scales;
    static thread_local Scratch<int32_t> ints;
    static thread_local Scratch<int8_t> expanded;
    const int64_t first = by_rows ? begin : 0, count = by_rows ? end - begin : m;
    const int64_t p0 = by_rows ? 0 : begin, p1 = by_rows ? w.panels_per_group : end;
    const int64_t blocks = row_blocks(t, w, count, w.k, 1), most = (count + blocks - 1) / blocks;
    uint8_t* q = quantized.get(most * w.k);
    float* s = scales.get(most);
    int32_t *z = ints.get(2 * most), *sums = z + most;
    int8_t* scratch = w.bits == 4 ? expanded.get((w.panel_s8_bytes(kPanel) + 127) / 128 * 128) : nullptr;
    const RowParams rows{z, s};
    Epilogue e = make_epilogue(w, out, rows);
    if (w.has_w_zero_point) e.row_sum = sums;
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t m0 = first + count * b / blocks, height = first + count * (b + 1) / blocks - m0;
      const int64_t row = quantize_rows(t, x + m0 * ldx, height, w.k, ldx, q, s, z, symmetric);
      if (row >= 0) {
        int64_t seen = bad.load(std::memory_order_relaxed);
        while (m0 + row < seen && !bad.compare_exchange_weak(seen, m0 + row, std::memory_order_relaxed)) {
        }
        return;
      }
      if (w.has_w_zero_point) t.row_sum({q, w.k, height, w.k, sums});
      const Job job{t, w, q, w.k, reinterpret_cast<char*>(c) + m0 * ldc, ldc, out, rows, e, 4};
      for (int64_t p = p0, count = 1; p < p1; p += count) {
        count = panels_at_once(t, w, p, p1, height);
        panel_rows(job, p, panel_for(t, w, p, height, scratch), 0, height, count);
      }
    }
  });
  if (bad.load() < m) row_not_finite(bad.load());
}

}  // namespace qgemm
