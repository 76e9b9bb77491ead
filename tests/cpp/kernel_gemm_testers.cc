// Testers of the GEMM family: register tiles, the end of a grouped product, nibble expansion.
#include <algorithm>
#include <cmath>
#include <memory>

#include "kernel_testers.h"

namespace qgemm {
namespace test {
namespace {

constexpr int kMaxColumns = 448;
constexpr int kMaxRows = 64;

const char* out_name(OutType t) {
  switch (t) {
    case OutType::u8:
      return "u8";
    case OutType::s8:
      return "s8";
    case OutType::s32:
      return "s32";
    case OutType::f32:
      return "f32";
    case OutType::f32_accumulate:
      return "f32_accumulate";
  }
  return "?";
}

// One call of a GEMM kernel beside the reference, built up by name.
class GemmTester {
 public:
  GemmTester& m(int v) { return m_ = v, *this; }
  GemmTester& tile_rows(int v) { return tile_rows_ = v, *this; }
  GemmTester& matrix(int lda) { return lda_ = lda, *this; }  // rows lda bytes apart, no table; 0: a table
  GemmTester& taps(int v) { return taps_ = v, *this; }
  GemmTester& kc(int v) { return kc_ = v, *this; }
  GemmTester& width(int v) { return width_ = v, *this; }
  GemmTester& n(int v) { return n_ = v, *this; }
  GemmTester& panels(int v) { return panels_ = v, *this; }  // whole ones of 64 columns, side by side
  GemmTester& sets(int v) { return sets_ = v, *this; }      // of groups, panels of 16 columns
  GemmTester& row(int v) { return row_ = v, *this; }
  GemmTester& col(int v) { return col_ = v, *this; }
  GemmTester& side(Side v) { return side_ = v, *this; }
  GemmTester& gap(int v) { return gap_ = v, *this; }
  GemmTester& nibbles() { return nibbles_ = true, *this; }  // a panel of a 4-bit weight, for gemm4

  // False when the kernel and the reference differ.
  bool run(const KernelRow& kernel_row, Rng& rng) {
    const Mood a_mood = any_mood(rng), b_mood = any_mood(rng);
    const int64_t k4 = (kc_ + 3) / 4;
    const size_t slots = static_cast<size_t>(taps_) * static_cast<size_t>(m_);
    const int64_t offset = rng.chance(50) ? rng.between(1, 100) : 0;
    std::vector<const uint8_t*> pointers(lda_ ? 0 : slots);
    const uint8_t* base = nullptr;
    std::vector<ptrdiff_t> tap_at(lda_ && taps_ > 1 ? static_cast<size_t>(taps_) : 0);
    if (lda_) {
      int64_t least = 0, most = 0;
      for (ptrdiff_t& at : tap_at) {
        at = static_cast<ptrdiff_t>(rng.between(-100, 100));
        least = std::min<int64_t>(least, at), most = std::max<int64_t>(most, at);
      }
      const int64_t bytes = int64_t(lda_) * (m_ - 1) + sets_ * kc_ + most - least;
      uint8_t* p = matrix_.place<uint8_t>(static_cast<size_t>(bytes), side_);
      fill(rng, a_mood, p, bytes);
      base = p - least - offset;
    }
    for (size_t i = 0; i < pointers.size(); ++i) {
      uint8_t* p = rows(i).place<uint8_t>(static_cast<size_t>(sets_ * kc_), side_);
      fill(rng, a_mood, p, sets_ * kc_);
      pointers[i] = p - offset;
    }
    const GemmCut cut = gemm_cut(m_, tile_rows_);
    std::vector<GemmTile> tiles(lda_ ? 0 : static_cast<size_t>(cut.tiles));
    for (size_t i = 0; i < tiles.size(); ++i) {
      tiles[i].offset = rng.chance(50) ? static_cast<ptrdiff_t>(rng.between(-100, 100)) : 0;
      const int32_t tile = static_cast<int32_t>(i), begin = gemm_tile_begin(cut, tile), end = gemm_tile_begin(cut, tile + 1);
      for (int32_t p = begin * taps_; p < end * taps_; ++p) pointers[static_cast<size_t>(p)] -= tiles[i].offset;
    }
    if (!lda_) {
      const uint8_t* const* placed = pointers_.place(pointers, side_);
      for (size_t i = 0; i < tiles.size(); ++i) tiles[i].rows = placed + gemm_tile_begin(cut, static_cast<int32_t>(i)) * taps_;
    }
    // A part of a filter: lines of taps, of which the panel holds more.
    const int merged = !nibbles_ && width_ == 16 && kc_ == 16 ? static_cast<int>(rng.pick<int64_t>({0, 2, 4})) : 0;
    const bool part = !nibbles_ && !lda_ && panels_ * sets_ == 1 && merged == 0 && taps_ > 1 && rng.chance(50);
    const int line = part ? static_cast<int>(rng.between(1, taps_)) : 0;
    const int64_t gap = part ? rng.between(0, 2) * k4 * width_ * 4 : 0, gaps = part ? (taps_ - 1) / line : 0;
    const int64_t rest = !tap_at.empty() && rng.chance(50) ? rng.pick<int64_t>({4, 4, 8, 12}) : 0;  // behind the taps
    const int64_t panel = (taps_ * k4 * 4 + rest) * width_ + gaps * gap, panel_bytes = panel + rng.pick<int64_t>({0, 64});
    const int64_t stored = nibbles_ ? panel / 2 : panel + (panels_ * sets_ - 1) * panel_bytes;
    int8_t* b = b_.place<int8_t>(static_cast<size_t>(stored), side_);
    fill(rng, b_mood, b, stored);
    for (int64_t p = 0; p < panels_ * sets_; ++p)
      for (int64_t t = 0; t < taps_; ++t)  // a panel is zero where kc is rounded up
        for (int64_t k = kc_; k < 4 * k4; ++k)
          for (int64_t j = 0; j < width_; ++j) {
            const int64_t at = ((t * k4 + k / 4) * width_ + j) * 4 + k % 4 + (part ? t / line * gap : 0);
            if (nibbles_)
              b[at / 128 * 64 + at % 64] &= static_cast<int8_t>(at % 128 < 64 ? 0xf0 : 0x0f);
            else
              b[p * panel_bytes + at] = 0;
          }
    uint8_t* rests = rest_.place<uint8_t>(static_cast<size_t>(rest * m_), side_);
    fill(rng, a_mood, rests, rest * m_);
    for (int64_t p = 0; merged && p < sets_; ++p)
      for (int64_t x = 0; x < panel; ++x)
        if (x / 4 % 16 * merged / 16 != x / 64 % 4 * merged / 4) b[p * panel_bytes + x] = 0;

    const double typical = 255.0 * 128.0 * std::sqrt(double(taps_) * kc_ + 1);
    const Epilogue& e = maker_.make(rng, row_ + m_, col_ + panels_ * sets_ * width_, typical, true, true, side_);
    const int64_t columns = (panels_ * sets_ - 1) * width_ + n_;
    const int64_t size = element_size(e.out), row_bytes = columns * size, ld = row_bytes + gap_ * size;
    gemm_args g{};
    g.tiles = lda_ ? nullptr : tiles_.place(tiles, side_);
    g.base = base;
    g.lda = lda_;
    g.tap_at = tap_at.empty() ? nullptr : tap_at.data();
    g.rest = rest ? rests : nullptr;
    g.rest_bytes = static_cast<int32_t>(rest);
    g.tile_rows = tile_rows_;
    g.merged = merged;
    g.sets = sets_ == 1 && rng.chance(50) ? 0 : sets_;
    g.line = line;
    g.gap = static_cast<ptrdiff_t>(gap);
    if (!pointers.empty() && rng.chance(50)) g.ahead = pointers[0] + offset, g.ahead_bytes = rng.between(0, 4096);
    g.panels = panels_ == 1 && rng.chance(50) ? 0 : panels_;
    g.panel_bytes = static_cast<ptrdiff_t>(panel_bytes);
    g.offset = static_cast<ptrdiff_t>(offset);
    g.m = m_;
    g.taps = taps_;
    g.kc = kc_;
    g.b = b;
    g.width = width_;
    g.n = n_;
    g.ep = &e;
    g.row = row_;
    g.col = col_;
    g.ldc = ld;
    now_testing(
        "%s m=%d tile_rows=%d lda=%d taps=%d line=%d rest=%d kc=%d width=%d n=%d panels=%d merged=%d sets=%d row=%d col=%d "
        "ldc=%d %s",
        kernel_row.name, m_, tile_rows_, lda_, taps_, line, static_cast<int>(rest), kc_, width_, n_, panels_, merged, sets_, row_,
        col_, static_cast<int>(ld), maker_.describe().c_str());
    uint8_t* want = want_.place(m_, row_bytes, ld, side_);
    uint8_t* got = got_.place(m_, row_bytes, ld, side_);
    if (e.out == OutType::f32_accumulate)
      for (int r = 0; r < m_; ++r)
        for (int64_t j = 0; j < columns; ++j) {
          const float f = rng.uniform(-1000, 1000);
          std::memcpy(want + r * ld + 4 * j, &f, 4);
          std::memcpy(got + r * ld + 4 * j, &f, 4);
        }
    g.c = want;
    if (nibbles_)
      table_of(Isa::ref).gemm4(gemm4_args{g});
    else
      table_of(Isa::ref).gemm_for(width_).fn(g);
    g.c = got;
    if (nibbles_)
      kernel<gemm4_args>(kernel_row)(gemm4_args{g});
    else
      kernel<gemm_args>(kernel_row)(g);
    return same_output(got_, want_, m_, row_bytes);
  }

 private:
  Guarded& rows(size_t i) {
    while (rows_.size() <= i) rows_.push_back(std::make_unique<Guarded>(4096));
    return *rows_[i];
  }

  int m_ = 1, tile_rows_ = 0, lda_ = 0, taps_ = 1, kc_ = 1, width_ = 16, n_ = 1, panels_ = 1, sets_ = 1, row_ = 0, col_ = 0,
      gap_ = 0;
  bool nibbles_ = false;
  Side side_ = Side::end;
  std::vector<std::unique_ptr<Guarded>> rows_;
  Guarded b_{64 * 4 * 9 * 64}, pointers_{8 * 16 * 64}, tiles_{16 * 64}, matrix_{1 << 14}, rest_{12 * 64};
  EpilogueMaker maker_;
  Output got_{1 << 14}, want_{1 << 14};
};

}  // namespace

EpilogueMaker::EpilogueMaker()
    : e_{},
      correction_(4 * kMaxColumns),
      scale_(4 * kMaxColumns),
      bias_(4 * kMaxColumns),
      colsum_(4 * kMaxColumns),
      w_zero_point_(4 * kMaxColumns),
      row_zero_point_(4 * kMaxRows),
      row_scale_(4 * kMaxRows),
      row_sum_(4 * kMaxRows),
      row_term_(4 * kMaxRows) {}

const Epilogue& EpilogueMaker::make(Rng& rng, int64_t rows, int64_t columns, double typical, bool accumulate, bool row_arrays,
                                    Side side) {
  auto ints = [&](Guarded& g, int64_t n, int64_t lo, int64_t hi) {
    int32_t* p = g.place<int32_t>(static_cast<size_t>(n), side);
    for (int64_t i = 0; i < n; ++i) p[i] = static_cast<int32_t>(rng.between(lo, hi));
    return p;
  };
  auto floats = [&](Guarded& g, int64_t n, float lo, float hi) {
    float* p = g.place<float>(static_cast<size_t>(n), side);
    for (int64_t i = 0; i < n; ++i) p[i] = rng.uniform(lo, hi);
    return p;
  };
  e_ = Epilogue{};
  e_.out = static_cast<OutType>(rng.between(0, accumulate ? 4 : 3));
  const int64_t spread = static_cast<int64_t>(typical) + 1;
  e_.correction = ints(correction_, columns, -spread, spread);
  const bool wild = rng.chance(5);
  if (wild) e_.correction = ints(correction_, columns, INT32_MIN, INT32_MAX);  // wraps like every int32 sum here
  if (row_arrays && rng.chance(40)) {
    e_.row_zero_point = ints(row_zero_point_, rows, 0, 255);
    e_.colsum = ints(colsum_, columns, -spread / 128, spread / 128);
  }
  if (row_arrays && rng.chance(40)) {
    e_.row_sum = ints(row_sum_, rows, 0, spread / 128);
    e_.w_zero_point = ints(w_zero_point_, columns, -128, 127);
  }
  if (row_arrays && rng.chance(30)) e_.row_term = ints(row_term_, rows, -spread, spread);
  // Three kinds of scale: outputs all over the grid; a power of two, which makes ties; and one that overflows it.
  const int kind = static_cast<int>(rng.between(0, 9));
  const float unit = kind == 0 ? 0.5f : kind == 1 ? 1e30f : static_cast<float>(300.0 / typical);
  e_.scale = kind < 2 ? floats(scale_, columns, unit, unit) : floats(scale_, columns, 0.01f * unit, unit);
  e_.bias = kind == 0 ? floats(bias_, columns, 0, 0) : floats(bias_, columns, -100, 100);
  if (row_arrays && rng.chance(40)) e_.row_scale = floats(row_scale_, rows, 1e-3f, 2);
  e_.inv_scale = kind == 0 ? 1.0f : rng.uniform(0.1f, 3);
  e_.zero_point = static_cast<int32_t>(rng.pick<int64_t>({0, 1, 127, 128, 254, 255, rng.between(0, 255)}));
  const int32_t a = static_cast<int32_t>(rng.between(0, 255)), b = static_cast<int32_t>(rng.between(0, 255));
  e_.lo = rng.chance(60) ? 0 : rng.chance(50) ? e_.zero_point : (a < b ? a : b);
  e_.hi = rng.chance(60) ? 255 : (a < b ? b : a);
  if (e_.hi < e_.lo) e_.hi = 255;
  const bool clipped = rng.chance(50);
  e_.f_lo = clipped ? rng.pick({0.0f, -1.5f}) : -INFINITY;
  e_.f_hi = clipped ? rng.pick({6.0f, 1e20f}) : INFINITY;
  e_.bounded =
      kind >= 2 && !wild && !e_.row_zero_point && !e_.row_sum && rng.chance(50);  // then |y * inv_scale| stays far below 2^30
  return e_;
}

std::string EpilogueMaker::describe() const {
  char text[160];
  std::snprintf(text, sizeof(text), "%s%s rows:%c%c%c%c zp=%d [%d,%d] [%g,%g] inv=%g", out_name(e_.out),
                e_.bounded ? " bounded" : "", e_.row_zero_point ? 'z' : '-', e_.row_scale ? 's' : '-', e_.row_sum ? 'w' : '-',
                e_.row_term ? 't' : '-', e_.zero_point, e_.lo, e_.hi, e_.f_lo, e_.f_hi, e_.inv_scale);
  return text;
}

bool same_output(const Output& got, const Output& want, int64_t rows, int64_t row_bytes) {
  if (!got.margins_intact()) {
    ADD_FAILURE() << "wrote outside its output: " << current_case();
    return false;
  }
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t i = 0; i < row_bytes; ++i)
      if (got.row(r)[i] != want.row(r)[i]) {
        ADD_FAILURE() << "row " << r << ", byte " << i << ": " << int(got.row(r)[i]) << ", the reference has "
                      << int(want.row(r)[i]) << ": " << current_case();
        return false;
      }
  return true;
}

void test_gemm(const KernelRow& row) {
  Rng rng(1);
  GemmTester t;
  // A kernel serves the panel widths that the dispatcher sends to it.
  std::vector<int> widths;
  for (int width = 16; width <= 64; width += 16)
    for (const GemmKernel* k : {&table_of(row.isa).gemm_for(width), &table_of(row.isa).low_gemm_for(width)})
      if (k->name == std::string(row.name) && (widths.empty() || widths.back() != width)) widths.push_back(width);
  ASSERT_FALSE(widths.empty()) << row.name << " is never selected";
  // Every height of the tile, every edge of the panel, every remainder of k, one tap and several.
  for (int width : widths) {
    for (int m = 1; m <= row.mr; ++m)
      for (int n : {1, width - 15, width - 1, width})
        for (int kc : {0, 1, 2, 3, 4, 5, 7, 8, 31, 64})
          for (Side side : {Side::start, Side::end})
            if (!t.m(m).taps(1).kc(kc).width(width).n(n).row(0).col(0).gap(0).side(side).run(row, rng)) return;
  }
  for (int i = 0; i < cases(20000); ++i) {
    const int width = rng.pick(widths);
    t.taps(static_cast<int>(rng.pick<int64_t>({1, 1, 2, 3, 9}))).width(width);
    if (rng.chance(40))
      t.m(static_cast<int>(rng.between(1, row.mr))).tile_rows(0);
    else  // a strip; the drivers' are of tiles as high as the kernel has them
      t.m(static_cast<int>(rng.between(1, 3 * row.mr + 1)))
          .tile_rows(rng.chance(80) ? row.mr : static_cast<int>(rng.between(1, row.mr)));
    const int kc =
        static_cast<int>(rng.pick<int64_t>({0, rng.between(1, 9), rng.between(1, 70), 37, 61, 4 * rng.between(1, 16)}));
    const bool matrix = rng.chance(30);
    if (matrix && rng.chance(60)) t.taps(1);
    t.matrix(matrix ? kc + static_cast<int>(rng.between(kc > 0 ? 0 : 1, 20)) : 0);
    t.kc(kc).n(static_cast<int>(rng.between(1, width))).panels(1).sets(1);
    if (width == 64 && rng.chance(20)) {  // few rows over panels side by side
      t.m(rng.chance(50) ? 1 : static_cast<int>(rng.between(1, row.mr))).tile_rows(rng.chance(50) ? row.mr : 0);
      t.taps(1).matrix(kc + static_cast<int>(rng.between(kc > 0 ? 0 : 1, 20))).n(64).panels(static_cast<int>(rng.between(1, 5)));
    }
    if (width == 16 && rng.chance(30)) {  // groups side by side
      t.kc(16).matrix(matrix ? 16 + static_cast<int>(rng.between(0, 20)) : 0);
      if (!matrix) t.taps(static_cast<int>(rng.pick<int64_t>({1, 3, 9, 25, 26})));
      if (rng.chance(80)) t.n(16).sets(static_cast<int>(rng.between(1, kMostSets)));
    }
    t.row(static_cast<int>(rng.between(0, 9)))
        .col(64 * static_cast<int>(rng.between(0, 1)))
        .gap(rng.chance(50) ? 0 : static_cast<int>(rng.between(1, 9)));
    if (rng.chance(20)) t.n(width);  // with no gap, rows that are one piece of memory
    if (!t.side(rng.chance(50) ? Side::start : Side::end).run(row, rng)) return;
  }
}

void test_gemm4(const KernelRow& row) {
  Rng rng(6);
  GemmTester t;
  t.nibbles().taps(1);
  for (int width : {32, 64})
    for (int m = 1; m <= row.mr; ++m)
      for (int n : {1, width - 15, width - 1, width})
        for (int kc : {0, 1, 2, 3, 4, 5, 7, 8, 31, 64})
          for (Side side : {Side::start, Side::end})
            if (!t.m(m).matrix(kc + 1).kc(kc).width(width).n(n).row(0).col(0).gap(0).side(side).run(row, rng)) return;
  for (int i = 0; i < cases(20000); ++i) {
    const int width = 32 * static_cast<int>(rng.between(1, 2));
    const int kc =
        static_cast<int>(rng.pick<int64_t>({0, rng.between(1, 9), rng.between(1, 70), 37, 61, 4 * rng.between(1, 40)}));
    t.m(static_cast<int>(rng.between(1, 2 * row.mr + 1))).kc(kc).width(width).n(static_cast<int>(rng.between(1, width)));
    t.matrix(kc + static_cast<int>(rng.between(kc > 0 ? 0 : 1, 20)));
    t.row(static_cast<int>(rng.between(0, 9)))
        .col(64 * static_cast<int>(rng.between(0, 1)))
        .gap(static_cast<int>(rng.between(0, 9)));
    if (!t.side(rng.chance(50) ? Side::start : Side::end).run(row, rng)) return;
  }
}

void test_product(const KernelRow& row) {
  Rng rng(5);
  Guarded a_memory(1 << 16), pointers(1 << 12), b_memory(1 << 16), bias_memory(1 << 10);
  Output got(1 << 15), want(1 << 15);
  const std::vector<float> odd{0.0f, -0.0f, INFINITY, -INFINITY, NAN, 1e-40f, 3e38f};
  for (int i = 0; i < cases(8000); ++i) {
    const Side side = rng.chance(50) ? Side::start : Side::end;
    const bool window = rng.chance(50);
    product_args g{};
    g.m = static_cast<int>(rng.pick<int64_t>({1, 2, 3, 4, 5, 6, 7, 12, 13, 17}));
    g.tile_rows = row.mr;
    g.width = 16 * static_cast<int>(rng.between(1, 4));
    g.n = static_cast<int>(rng.between(1, g.width));
    g.taps = window ? static_cast<int>(rng.pick<int64_t>({1, 2, 5, 9})) : 1;
    g.kc = static_cast<int>(window ? rng.pick<int64_t>({1, 2, 3, 8, 16}) : rng.pick<int64_t>({1, 2, 5, 64, rng.between(1, 100)}));
    const int all = g.taps * g.kc, first = static_cast<int>(rng.chance(50) ? 0 : rng.between(0, all));
    g.tap = first / g.kc;
    g.first = first % g.kc;
    g.k = static_cast<int>(rng.chance(50) ? all - first : rng.between(0, all - first));
    g.offset = rng.pick<int64_t>({0, 0, 5});
    const int64_t kc = g.offset + g.kc;
    g.lda = kc + rng.pick<int64_t>({0, 0, 3});
    g.ldc = g.n + rng.pick<int64_t>({0, 0, 5});
    g.more = rng.chance(50);
    const bool last = rng.chance(60), any = last && rng.chance(20);
    const auto values = [&](float* p, int64_t n) {
      for (int64_t j = 0; j < n; ++j) p[j] = any && rng.chance(3) ? rng.pick(odd) : rng.uniform(-2, 2);
      return p;
    };
    const int64_t a_count = window ? 3 * kc : (g.m - 1) * g.lda + kc, b_count = int64_t(g.k) * g.width;
    const float* a = values(a_memory.place<float>(static_cast<size_t>(a_count), side), a_count);
    if (window) {  // rows may be read by several taps
      std::vector<const float*> taps(static_cast<size_t>(g.m * g.taps));
      for (auto& p : taps) p = a + rng.between(0, 2) * kc;
      g.a = pointers.place(taps, side);
    } else {
      g.base = a;
    }
    g.b = values(b_memory.place<float>(static_cast<size_t>(b_count), side), b_count);
    if (last) g.bias = values(bias_memory.place<float>(static_cast<size_t>(g.n), side), g.n);
    g.lo = rng.pick({-INFINITY, 0.0f});
    g.hi = rng.pick({INFINITY, 6.0f});
    now_testing("%s window=%d m=%d n=%d width=%d taps=%d kc=%d first=%d k=%d lda=%d ldc=%d more=%d last=%d", row.name, window,
                g.m, g.n, g.width, g.taps, g.kc, first, g.k, int(g.lda), int(g.ldc), g.more, last);
    const uint64_t seed = rng.next();
    for (Output* o : {&want, &got}) {
      g.c = reinterpret_cast<float*>(o->place(g.m, g.n * 4, g.ldc * 4, side));
      Rng before(seed);
      for (int64_t r = 0; r < g.m; ++r)
        for (int j = 0; j < g.n; ++j) g.c[r * g.ldc + j] = before.uniform(-9, 9);
      if (o == &want)
        table_of(Isa::ref).product(g);
      else
        kernel<product_args>(row)(g);
    }
    if (!same_output(got, want, g.m, g.n * 4)) return;
  }
}

void test_group_finish(const KernelRow& row) {
  Rng rng(2);
  EpilogueMaker maker;
  Guarded f_memory(16 * 64 * 4);
  Output got(1 << 14), want(1 << 14);
  for (int i = 0; i < cases(6000); ++i) {
    const Side side = rng.chance(50) ? Side::start : Side::end;
    const int m = static_cast<int>(rng.between(1, 16)), width = 16 * static_cast<int>(rng.between(1, 4)),
              n = static_cast<int>(rng.between(1, width));
    const int first_row = static_cast<int>(rng.between(0, 5)), col = 64 * static_cast<int>(rng.between(0, 1));
    Epilogue e = maker.make(rng, first_row + m, col + width, 1.0, false, true, side);
    if (e.out == OutType::s32) e.out = OutType::f32;  // a grouped product has no int32 result
    float* f = f_memory.place<float>(static_cast<size_t>(m * width), side);
    for (int j = 0; j < m * width; ++j)
      f[j] = rng.chance(10) ? 0.5f * static_cast<float>(rng.between(-600, 600)) : rng.uniform(-300, 300);
    const int64_t size = element_size(e.out), ld = (n + rng.between(0, 5)) * size;
    group_finish_args g{};
    g.f = f;
    g.m = m;
    g.n = n;
    g.width = width;
    g.x_scale = rng.pick({1.0f, 0.017f, 0.5f});
    g.ep = &e;
    g.row = first_row;
    g.col = col;
    g.ldc = ld;
    now_testing("%s m=%d n=%d width=%d row=%d col=%d x_scale=%g %s", row.name, m, n, width, first_row, col, g.x_scale,
                maker.describe().c_str());
    g.c = want.place(m, n * size, ld, side);
    table_of(Isa::ref).group_finish(g);
    g.c = got.place(m, n * size, ld, side);
    kernel<group_finish_args>(row)(g);
    if (!same_output(got, want, m, n * size)) return;
  }
}

void test_unpack4(const KernelRow& row) {
  Rng rng(3);
  Guarded source(1 << 13);
  Output got(1 << 14), want(1 << 14);
  for (int i = 0; i < cases(1000); ++i) {
    const Side side = rng.chance(50) ? Side::start : Side::end;
    const int64_t bytes = 128 * rng.between(0, 40);
    uint8_t* src = source.place<uint8_t>(static_cast<size_t>(bytes / 2), side);
    fill(rng, Mood::uniform, src, bytes / 2);
    now_testing("%s bytes=%d", row.name, static_cast<int>(bytes));
    unpack4_args g{src, reinterpret_cast<int8_t*>(want.place(1, bytes, bytes, side)), bytes};
    table_of(Isa::ref).unpack4(g);
    g.dst = reinterpret_cast<int8_t*>(got.place(1, bytes, bytes, side));
    kernel<unpack4_args>(row)(g);
    if (!same_output(got, want, 1, bytes)) return;
  }
}

}  // namespace test
}  // namespace qgemm
