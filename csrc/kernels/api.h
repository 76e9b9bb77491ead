// The contract between drivers (csrc/ops) and micro-kernels (csrc/kernels): plain structs, no templates, no STL, so that a file
// compiled for one ISA shares no inline code with a file compiled for another.
//
// Every kernel is `void <isa>::<name>(const <op>_args&)`. It reads and writes exactly the bytes its arguments describe: not one
// byte past a row, a table or an output (guard pages in the tests hold it to that). Preconditions are the driver's to check.
#pragma once
#include <cstddef>
#include <cstdint>

namespace qgemm {

enum class OutType : int32_t { u8 = 0, s8 = 1, s32 = 2, f32 = 3, f32_accumulate = 4 };

// What happens to an exact int32 accumulator before it is stored. Arrays indexed by output column are in panel order and padded
// to whole panels (multiples of 16 columns), so full-vector loads are safe; for the depthwise layout panel order is the
// permutation given in docs/packing.md.
//   acc   = sum(xq * wq)  + correction[n]  - row_zero_point[m] * colsum[n]  - row_sum[m] * w_zero_point[n]  + row_term[m]
//                                                                                                               (int32, wraps)
//   y     = fmaf((float)acc, scale[n] * row_scale[m], bias[n])                                                  (fp32)
//   u8,s8 = clamp(rint(y * inv_scale) + zero_point, lo, hi)
//   s32   = acc            f32 = clamp(y, f_lo, f_hi)           f32_accumulate: c = fmaf((float)acc, scale[n], c)
// Absent terms are null pointers. For s8 the caller gives zero_point, lo, hi on the u8 grid (+128); the stored byte is q ^ 0x80.
struct Epilogue {
  const int32_t* correction;      // [n]  -zx * colsum' (static input) + int32 bias; never null
  const float* scale;             // [n]  never null except for s32
  const float* bias;              // [n]  zeros when the layer has none; never null except for s32
  const int32_t* colsum;          // [n]  sum_k (w - zw); with row_zero_point
  const int32_t* w_zero_point;    // [n]  with row_sum
  const int32_t* row_zero_point;  // [m]
  const float* row_scale;         // [m]
  const int32_t* row_sum;         // [m]  sum_k xq of the row, padding included
  const int32_t* row_term;        // [m]  -row_sum * zero point, where that is one for all columns
  float inv_scale;                // 1.0f / out_scale
  int32_t zero_point, lo, hi;     // on the u8 grid
  float f_lo, f_hi;
  OutType out;
  bool bounded;  // |y * inv_scale| < 2^30 for every input: conversion to int32 cannot overflow (u8, s8 without row terms)
};

// Where the rows of one tile of A lie.
struct GemmTile {
  const uint8_t* const* rows;  // [taps][rows of the tile] pointers to kc readable bytes each, `offset` bytes further on
  ptrdiff_t offset;            // pixels in the midst of an image share one table and differ in this
};

constexpr int32_t kMaxTapsOfRows = 16;

// A strip of C: m rows, n columns of one panel, all of K. The rows are cut in tiles of `tile_rows`, at most the kernel's mr, the
// last two of even height: 16 rows are 6+5+5. (A call takes many tiles because the end of one can be worked off beside the
// products of the next.) A is read through row pointers, so GEMM (taps = 1) and convolution (a tap is one filter position) are
// one kernel. B panel: for each tap, for each group of 4 consecutive k (kc rounded up, zero filled): `width` columns x 4 bytes.
struct gemm_args {
  // [tiles of the strip], all of them another `offset` bytes further on, so that one table serves every group of a convolution.
  // Null: row r is at base + r * lda + offset, and its taps are tap_at[t] bytes further on; tap_at null: there is one tap.
  const GemmTile* tiles;
  const uint8_t* base;
  const ptrdiff_t* tap_at;  // [taps], at most kMaxTapsOfRows
  ptrdiff_t lda, offset;
  // With tap_at, what the rows have besides their taps: row r is followed by `rest_bytes` bytes, a multiple of 4, from rest + r *
  // rest_bytes on, and the panel's taps by their weights. Null: nothing.
  const uint8_t* rest;
  int32_t rest_bytes;
  int32_t m, taps, kc;
  const int8_t* b;  // panel, 64-byte aligned when the caller's buffer is
  // After every `line` taps `gap` bytes of the panel are left out: a part of a filter, where the rest lies beside the image. 0:
  // nothing is left out. Not with `merged`.
  int32_t line;
  ptrdiff_t gap;
  int32_t width;  // columns of the panel: 16, 32, 48 or 64
  int32_t n;      // valid columns, 1..width
  const Epilogue* ep;
  int32_t row, col;  // index of the strip's first row in the [m] arrays, first column in the [n] arrays
  void* c;           // first element of the strip
  ptrdiff_t ldc;     // bytes from row to row
  // A panel that may be prefetched meanwhile (its first half by the first tile, its second by the second), or null. A hint:
  // nothing is read.
  const int8_t* next;
  int32_t tile_rows;  // 0: the strip is one tile
  // Panels side by side, `panel_bytes` from one to the next, each of 64 valid columns: as many calls, with b, col and c going on
  // from panel to panel, in one. 0: one panel. More only where the rows are a matrix and one tile, and next is null: few rows
  // read a weight no faster than it arrives, and should not pause between panels.
  int32_t panels;
  ptrdiff_t panel_bytes;
  // Of a panel of 16 columns over a kc of 16: so many groups lie in it side by side, 2 or 4, each with as large a part of the
  // columns as of the channels, and the weights of a column for channels of other groups are zero. A kernel may leave them out.
  // 0: any weight may be other than zero.
  int32_t merged;
  // Sets of such groups: as many calls in one, with b going on by panel_bytes, offset by kc, col and c by 16 columns. At most
  // kMostSets; 0: one. More only where n is 16 and next is null: their channels share the cache lines of a pixel.
  int32_t sets;
  // Bytes that calls after this one read, which a kernel may ask for meanwhile, a few beside each tile. A hint.
  const uint8_t* ahead;
  ptrdiff_t ahead_bytes;
};
constexpr int32_t kMostSets = 4;

// The same over a panel of a 4-bit weight as it is stored: `b` points to nibbles (docs/packing.md), so that few rows read half
// the bytes and nothing is expanded in memory. For linear layers: tiles and next are null, taps is 1, and the kernel cuts the
// rows itself. width: 32 or 64, with which pieces of nibbles end where a group of 4 k does. kc: at most kMaxNibbleProducts, up to
// which 16 times a sum fits int32: a nibble in the upper half of a byte is 16 times its value, and to put it there takes fewer
// instructions than to extend its sign.
constexpr int32_t kMaxNibbleProducts = 65536;
struct gemm4_args : gemm_args {};

// Panel p of several side by side, as a call of its own.
static inline gemm_args gemm_panel(const gemm_args& g, int32_t p) {
  const bool bytes = g.ep->out == OutType::u8 || g.ep->out == OutType::s8;
  gemm_args one = g;
  one.panels = 0;
  one.b = g.b + p * g.panel_bytes;
  one.col = g.col + p * 64;
  one.c = static_cast<char*>(g.c) + p * (bytes ? 64 : 256);
  return one;
}

// Set s of several, as a call of its own.
static inline gemm_args gemm_set(const gemm_args& g, int32_t s) {
  const bool bytes = g.ep->out == OutType::u8 || g.ep->out == OutType::s8;
  gemm_args one = g;
  one.sets = 0;
  one.ahead_bytes = 0;
  one.b = g.b + s * g.panel_bytes;
  one.offset = g.offset + s * g.kc;
  one.col = g.col + s * 16;
  one.c = static_cast<char*>(g.c) + s * (bytes ? 16 : 64);
  return one;
}

// How the rows of a strip are cut in tiles.
struct GemmCut {
  int32_t m, tile_rows, tiles;
  int32_t full;  // this many, from the first on, have tile_rows rows
};
static inline GemmCut gemm_cut(int32_t m, int32_t tile_rows) {
  if (tile_rows == 0 || m <= tile_rows) return {m, m, 1, 1};
  const int32_t tiles = (m + tile_rows - 1) / tile_rows;
  return {m, tile_rows, tiles, m == tiles * tile_rows ? tiles : tiles - 2};
}
// The first row of tile i; of the tile after the last, m.
static inline int32_t gemm_tile_begin(const GemmCut& c, int32_t i) {
  const int32_t even = c.full * c.tile_rows;
  return i <= c.full ? i * c.tile_rows : i == c.tiles ? c.m : even + (c.m - even + 1) / 2;
}

// fp32 accumulators of a grouped product -> output. y = fmaf(f, row_scale[m] * x_scale, bias[n]).
struct group_finish_args {
  const float* f;  // [m][width]
  int32_t m, n, width;
  float x_scale;
  const Epilogue* ep;
  int32_t row, col;
  void* c;
  ptrdiff_t ldc;
};

// One block of the K = taps * kc of an fp32 product: for each c[i][j] the sum over `k` of them, ascending, of a[i][k] * b[k][j],
// a chain of fused multiply-adds from 0, which is added to c where there was a block before (`more`). With the last block comes
// the bias: it is added to the sum of the blocks, a NaN becomes the positive quiet one, and the result is y < lo ? lo : y > hi ?
// hi : y. A is read as gemm reads it: the rows of a matrix, or through pointers, which is how a convolution reads its image.
struct product_args {
  // [tile][taps][rows of the tile] pointers to kc floats each, `offset` floats further on, so that one table serves every group
  // of a convolution. Null: row r is at base + r * lda + offset, and taps = 1.
  const float* const* a;
  const float* base;
  ptrdiff_t lda, offset;
  int32_t taps, kc;
  int32_t tap, first;    // the block begins at element `first` of this tap
  int32_t m, tile_rows;  // cut as product_cut.h says
  const float* b;        // panel: k rows of `width` floats, of which n count
  int32_t k, width, n;   // width: 16, 32, 48 or 64
  float* c;              // m rows of n, ldc floats apart
  ptrdiff_t ldc;
  bool more;
  const float* bias;  // [n], or null before the last block
  float lo, hi;
};

// s4 panel -> s8 panel of the same order. `bytes` output bytes, a multiple of 128: each 64 input bytes give 128 output bytes, low
// nibbles first.
struct unpack4_args {
  const uint8_t* src;
  int8_t* dst;
  ptrdiff_t bytes;
};

// Depthwise convolution: `outputs` output rows of `pixels` each, `channels` channels. Input rows come four a bundle, so that a
// dword can hold four taps of one channel. Output pixel x of output row o is the epilogue of
//   sum of b[s][q][t][channel][i] * rows[o * advance + 4 * q + i][column * pixel + channel]
//   column = first + x * stride + t * dilation + i * shift
// over splits s, bundles q, taps t and i = 0..3; a column outside [0, columns) reads as `padding`. Two splits are two weights
// added (a centred weight may need 9 bits). Filters of several rows bundle along y (shift = 0); of one row, along x (all four
// rows the same, shift from tap to tap). Channels come in blocks of 64, whose weights lie `block` bytes apart. Their order in b
// and in the epilogue's arrays is permuted as docs/packing.md shows, so that two in-lane unpacks bring four taps of one channel
// into a dword and two in-lane packs bring the results back in natural order. Row arrays of the epilogue (row_zero_point,
// row_scale, row_sum, row_term) do not apply.
struct depthwise_args {
  const uint8_t* const* rows;  // [(outputs - 1) * advance + 4 * bundles] pointers to channel 0 of column 0
  ptrdiff_t advance;
  ptrdiff_t pixel;  // bytes from a column to the next
  int64_t first, columns, stride, dilation, shift;
  int32_t bundles, taps, splits;
  int32_t height;  // rows of a filter, 1..4 * bundles: the weights of those beyond are zero
  int32_t pixels, outputs, channels;
  uint8_t padding;
  bool far;  // rows lie beyond L2, probably: a kernel may fetch them ahead
  const int8_t* b;
  ptrdiff_t block;  // bytes from the weights of 64 channels to those of the next
  ptrdiff_t below;  // bytes from b to the same filters standing one row further down in their bundles; 0: none
  const Epilogue* ep;
  int32_t col;         // first index in the [n] arrays, a multiple of 64
  void* c;             // first row's first pixel's first channel
  ptrdiff_t ldc, ldr;  // bytes from pixel to pixel, from output row to output row
  // 64-byte aligned; at least bundles * taps * 4 rounded up to 64, and 256 * bundles * min(stride, taps) * (16 + (taps - 1) *
  // dilation / stride). More than that lets long rows be cut less often and narrow images use whole registers, as long as it
  // stays in L1.
  uint8_t* scratch;
  int64_t scratch_bytes;
};

// q = clamp(rint(x * inv_scale) + zero_point, qmin, qmax), NaN -> zero_point. Output element of `bytes` 1 or 2.
struct quantize_args {
  const float* x;
  void* q;
  ptrdiff_t n;
  float inv_scale;
  int32_t zero_point, qmin, qmax;
  int32_t bytes;
};

// x = (q - zero_point) * scale
struct dequantize_args {
  const void* q;
  float* x;
  ptrdiff_t n;
  float scale;
  int32_t zero_point;
  int32_t bytes;
  bool is_signed;
};

// min and max of x, 0 included; finite: false when any element is NaN or infinite, and then min = max = 0.
struct minmax_args {
  const float* x;
  ptrdiff_t n;
  float *min, *max;
  bool* finite;
};

// Rows of x, each on a u8 grid of its own (encoding.h), rows ldx floats and ldq bytes apart. bad: -1, or the first row that holds
// a NaN or an infinity; of it and the rows behind it nothing is written.
struct quantize_rows_args {
  const float* x;
  ptrdiff_t ldx;
  ptrdiff_t rows, n;
  uint8_t* q;
  ptrdiff_t ldq;
  float* scale;         // [rows]
  int32_t* zero_point;  // [rows]
  bool symmetric;
  ptrdiff_t* bad;
};

// Two u8 operands to a third grid, over `rows` rows of n elements. Operands and output have each their own distance between rows;
// an operand's may be 0, and then one row serves all (a term or a factor a channel). `out` may be `a` or `b` itself.
//   xa = fl(sa * (a - za)), xb = fl(sb * (b - zb));   q = clamp(rint(fl(fl(xa op xb) * inv_scale)) + zero_point, lo, hi)
struct binary_args {
  const uint8_t *a, *b;
  uint8_t* out;
  ptrdiff_t rows, n;
  ptrdiff_t lda, ldb, ldo;  // bytes
  float a_scale, b_scale, inv_scale;
  int32_t a_zero_point, b_zero_point, zero_point, lo, hi;
};
struct add_args : binary_args {};
struct mul_args : binary_args {
  // Null, or for each byte of b a factor of which the driver has found that for every byte of a rint((a - za) * factor +
  // zero_point), rounded once, lies between -32768 and 32767 and is the same byte: one multiply-add where the definition has four
  // products. Worth it where one row of b serves many of a.
  const float* factor;  // [256]
};

// Two u8 operands to a third grid by tables, rows as above. Every operand byte stands for a whole number of steps and a rank
// among the other operand's fractions, so that their sum carries into one step more or does not:
//   s = whole_a[a] + (whole_b[b] + (rank_b[b] > rank_a[a]))      the first addition saturates in int8
//   q = clamp(s + 128, lo, hi)
// Or, where together they span more than 256 steps (wide): the tables hold sizes of 0 to 255, those of the bytes below first_a
// and first_b are subtracted, and every step saturates in uint8:
//   s = positive ones, + carry, - negative ones
//   q = clamp(s, lo, hi)
struct sum_args {
  const uint8_t *a, *b;
  uint8_t* out;
  ptrdiff_t rows, n;
  ptrdiff_t lda, ldb, ldo;
  const uint8_t *rank_a, *rank_b;   // [256]
  const int8_t *whole_a, *whole_b;  // those of b below 127; wide: their bytes are sizes
  int32_t lo, hi;
  bool wide = false;
  int32_t first_a = 0, first_b = 0;  // 0 to 255
};

// out[r][i] = table[x[r][i]]; `out` may be `x` itself.
struct lut_args {
  const uint8_t* x;
  const uint8_t* table;  // [256]
  uint8_t* out;
  ptrdiff_t n;
  ptrdiff_t rows = 1, ldx = 0, ldo = 0;  // bytes from row to row
};

// Pieces of n bytes, put one after the other: out[i * ldo ..] = a[i][0..n), or of `base`, where a is null: base[i * step ..].
// They must not overlap the output.
struct gather_args {
  const uint8_t* const* a;  // [rows]
  uint8_t* out;
  ptrdiff_t rows, n, ldo;
  const uint8_t* base = nullptr;
  ptrdiff_t step = 0;

  const uint8_t* piece(ptrdiff_t i) const { return a ? a[i] : base + i * step; }
};

// What is left of several lines' pieces, brought together: out[x * ldo + t * n + i] = lines[t][x * step + i] for t < taps and i <
// n, and zeros behind them up to ldo, for each of `pixels`.
struct tails_args {
  const uint8_t* const* lines;  // [taps]
  int32_t taps, n;              // n: 1 to 3
  ptrdiff_t step, pixels;
  uint8_t* out;
  ptrdiff_t ldo;  // 4 or 8, and at least taps * n
};

// Output lines of a convolution whose outputs sum few products, to u8 or s8 without terms of rows: `outputs` lines of `pixels`
// each. Pixel x of line o is the row of a gemm whose tap t are the kc bytes of rows[o * advance + t] from first + x * step on; a
// byte outside [0, bytes) of a row reads as `padding`. Its output is at c + o * ldr + x * ldc. The panel is one for
// gemm_args::rest: each tap ends at its last whole group of 4, and what is left of them follows joined.
struct lines_args {
  const uint8_t* const* rows;  // [(outputs - 1) * advance + taps] pointers to byte 0
  ptrdiff_t advance, first, bytes;
  uint8_t padding;
  int32_t taps, kc;        // lines_takes
  ptrdiff_t step, pixels;  // 16 pixels read 128 bytes of a row, two registers, or less: 15 * step + kc <= 128
  int32_t outputs;
  const int8_t* b;
  int32_t width, n;  // as gemm's
  const Epilogue* ep;
  int32_t col;
  void* c;
  ptrdiff_t ldc, ldr;
};
// 3x3 filters of 2 and 3 channels, 5x5 filters of one: each is a loop of its own.
static inline bool lines_takes(int64_t taps, int64_t kc) { return taps == 3 ? kc == 6 || kc == 9 : taps == 5 && kc == 5; }

// Three planes to pixels of three channels: out[3 * i + c] = planes[c * ld + i].
struct interleave3_args {
  const uint8_t* planes;
  ptrdiff_t ld, n;
  uint8_t* out;
};

// Bytes in another order, some perhaps several times. Unit u of row r is in_pieces pieces of in_length bytes, in_pitch bytes
// apart, from x + r * ldx + u * in_length on, and becomes out_pieces pieces of out_length bytes, out_pitch apart, from out + r *
// ldo + u * out_length on. With the bytes of either numbered through its pieces, out[j] = in[index[j]]. A unit may be a pixel
// whose channels change places, or some neighbouring pixels of one row or of several. `twin`: 0, or what is written is written
// once more, so many bytes further on.
struct permute_args {
  const uint8_t* x;
  uint8_t* out;
  const int32_t* index;  // [out_pieces * out_length], each below in_pieces * in_length
  ptrdiff_t units, in_length, out_length;
  ptrdiff_t rows = 1, ldx = 0, ldo = 0;
  ptrdiff_t in_pieces = 1, in_pitch = 0, out_pieces = 1, out_pitch = 0;
  ptrdiff_t twin = 0;
};

// f[i] = fl(fl(a[i] * wa) + fl(b[i] * wb)): a row between two rows of an image.
struct lerp_args {
  const float *a, *b;
  float* f;
  ptrdiff_t n;
  float wa, wb;
};

// A row of pixels between the pixels of a float row: y = fl(fl(f[left[i]] * wl[i]) + fl(f[right[i]] * wr[i])), channel by
// channel, and out = clamp(rint(fl(y * inv_scale)) + zero_point, lo, hi).
struct mix_args {
  const float* f;               // [][channels]
  const int32_t *left, *right;  // [pixels]: pixels of f
  const float *wl, *wr;         // [pixels]
  uint8_t* out;
  ptrdiff_t pixels, channels;
  float inv_scale;
  int32_t zero_point, lo, hi;
};

// The same where the row doubles: each element a quarter of the way to its neighbours, which are `channels` elements away. The
// results are written in runs, whose starts lie `apart` bytes from each other.
//   y of even[i] = fl(fl(f[i - channels] / 4) + fl(f[i] * 0.75f)),  y of odd[i] = fl(fl(f[i] * 0.75f) + fl(f[i + channels] / 4))
// No quarter of an element that is not 0 is subnormal.
struct mix2_args {
  const float* f;  // elements -channels to n + channels
  uint8_t *even, *odd;
  ptrdiff_t n, channels;
  ptrdiff_t run, apart;  // run: n, or a multiple of 64 that divides it
  float inv_scale;
  int32_t zero_point, lo, hi;
  bool bounded;  // abs(y * inv_scale) < 2^30 for every element
};

// Rows of outputs of a window that slides over rows of pixels. Output x covers columns first + x * stride + t * dilation, t in
// 0..taps-1, of all rows; columns outside [0, columns) are passed over.
struct pool_args {
  const uint8_t* const* rows;  // [outputs][height] pointers to column 0 (max_pool: see there)
  int32_t outputs, height, taps;
  int64_t first, columns, stride, dilation;
  int32_t pixels, channels;
  // Bytes from a column to the next in the rows; from a pixel to the next and from a row to the next in `out`.
  ptrdiff_t pixel, ldo, ldr;
  uint8_t* out;
};

// out[i][x][c] = the largest byte of channel c in the window, 0 where it covers nothing. The rows of output row i are those from
// rows[i * advance] on, so that windows may share pointers.
struct max_pool_args : pool_args {
  int32_t advance;
};

// The end of an average in 16 bits, of which the driver has found that it gives the definition's byte for every sum of a window's
// bytes. With s = sum * weight, which 16 bits hold:
//   rounded      min((s * factor + 2^14) >> 15, 255)                             weight 1; s, factor < 2^15
//   shifted      min((max(s + offset, 0) * factor >> 16) >> shift, 255)          s + offset < 2^16, shift > 0
//   thresholds   (s >> 8) + ((s & 255) >= threshold[s >> 8])
enum class WordsForm : uint8_t { none, rounded, shifted, thresholds };
struct average_words {
  WordsForm form;
  uint8_t weight;  // 1 to 64
  uint16_t factor;
  int32_t offset, shift;
  uint8_t threshold[256];
};

// out[i][x][c] = clamp(rint(fl(fl((float)acc * scale[j]) * inv_scale)) + zero_point, lo, hi) ^ flip, where the window covers j
// columns and acc, exact in int32, is the sum over its bytes less x_zero_point for each.
struct average_pool_args : pool_args {
  int32_t x_zero_point;
  const float* scale;  // [j] for every j that occurs
  float inv_scale;
  int32_t zero_point, lo, hi;  // on the u8 grid
  uint8_t flip;                // 0x80 for s8
  bool bounded;                // abs(acc * scale * inv_scale) < 2^30 for every input
  // 0, or a factor of which the driver has found that for every sum of height * taps bytes rint(acc * factor + zero_point),
  // rounded once, lies between -32768 and 32767 and is the same byte: one multiply-add where the definition has two products.
  float factor;
  const average_words* words;  // [columns covered], or null. Only where lo = 0, hi = 255 and flip = 0
};

// sum[c] = sum over taps of a[t][c]; exact int32.
struct sum_pool_args {
  const uint8_t* const* a;  // [taps]
  int32_t taps, channels;
  int32_t* sum;
};

// One output pixel of an fp32 depthwise convolution: out[c] is what product defines for the K = taps products a[t][c] * b[t][c],
// in blocks of 256.
struct fdepthwise_args {
  const float* const* a;  // [taps]
  int32_t taps, channels;
  const float* b;     // [taps][channels]
  const float* bias;  // [channels]
  float lo, hi;
  float* out;
};

// Maxima of float pixels: out[c] is the first of the largest a[t][c], NaN (the positive quiet one) where any is NaN, and
// -infinity where there are none.
struct fmax_pool_args {
  const float* const* a;  // [taps]
  int32_t taps, channels;
  float* out;
};

// Means of float pixels: out[c] = (float)(sum / count), the sum of a[t][c], or of their squares, in fp64 from 0, t ascending. NaN
// is the positive quiet one.
struct mean_pool_args {
  const float* const* a;  // [taps]
  int32_t taps, channels;
  double count;
  bool squares;
  float* out;
};

// s32 -> output through an Epilogue of one row: used by average pooling to floats, and where the K of a product is cut. acc: [n].
struct requantize_args {
  const int32_t* acc;
  int32_t n;
  const Epilogue* ep;  // row 0, columns from 0; acc and the [n] arrays are readable up to the next multiple of 16
  void* c;
};

// One panel of an activation used as the right operand: u8 (flip 0x80) or s8 (flip 0) -> s8 panel of k rounded up to 4, zero
// filled, and the sum of each of its `width` columns.
struct pack_b_args {
  const uint8_t* b;  // the panel's first column
  ptrdiff_t ldb;     // bytes from row to row
  bool transposed;   // false: b is [k][n]; true: [n][k]
  uint8_t flip;
  int32_t k, n, width;  // n: valid columns, 1..width
  int8_t* panel;
  int32_t* colsum;  // [width]
};

// One panel of a weight from its canonical rows, and what packing must know of each column to prove its accumulator: the sum of
// its values, and the sum of their distances from the zero point. A group is `group` consecutive k; the last may be short.
//   8 bits: k4 = ceil(k / 4) rows of `width` x 4 bytes, zero filled
//   4 bits: the same bytes, filled up with zeros to a multiple of 128, two nibbles a byte as docs/packing.md shows
struct pack_w_args {
  const int8_t* w;  // [n] rows of k bytes, ldw bytes apart: each is a column of the panel
  ptrdiff_t ldw, k;
  int32_t n, width;          // valid columns, 1..width
  ptrdiff_t group;           // a multiple of 4 and > 0, or anything >= k
  const int8_t* zero_point;  // [width], 0 from n on; or null for none
  int32_t bits;              // 8 or 4; the caller sees to it that 4-bit values are in range, or discards the result
  bool stream;               // the panel is 64-byte aligned and too large to stay in cache: it may be written around it
  uint8_t* panel;
  int64_t *sum, *absolute;  // [groups][width], at least one group
  bool* in_range;           // whether every value fits `bits`
};

// s8 rows as u8 on the grid that is 128 higher, or back: out[r * n + i] = x[r * ldx + i] ^ 0x80.
struct flip_args {
  const uint8_t* x;
  uint8_t* out;
  ptrdiff_t rows, n, ldx;
};

// sum[i] = sum_k a[i][k], exact int32.
struct row_sum_args {
  const uint8_t* a;
  ptrdiff_t lda, m, k;
  int32_t* sum;
};

// 16-bit activations as two u8 products: acc = 256 * hi + lo + correction[n], exact (below 2^53); y = fmaf((float)acc, scale[n],
// bias[n]), clamped to [f_lo, f_hi]. correction, scale, bias: readable for n rounded up to 16.
struct combine16_args {
  const int32_t* sums;  // [m][2][width]: those of a row's high bytes, then those of its low bytes
  int32_t m, n, width;
  const double* correction;
  const float *scale, *bias;
  float f_lo, f_hi;
  float* c;
  ptrdiff_t ldc;  // bytes
};

// Softmax of rows: t = x (u8: scale * (q - zero_point)) + mask, e = exp(t - max t), y = e * (1 / sum e), stored as a real number.
// exp is the polynomial of kernels/coefficients.h, 0 below -87. The sum is that of the integers rint(e * 2^30), so no order is
// part of it. A row with a NaN, a +inf, or nothing but -inf gives NaN.
struct softmax_args {
  const void* x;  // u8 or fp32 rows
  ptrdiff_t ldx;  // bytes
  bool is_u8;
  float x_scale;
  int32_t x_zero_point;
  const float* mask;  // null, or rows of n
  ptrdiff_t ldmask;   // floats; 0: one row for all
  ptrdiff_t rows, n;
  float* scratch;      // two times n rounded up to 64, 64-byte aligned
  const Epilogue* ep;  // u8, s8 or f32: inv_scale, zero_point, lo, hi alone apply; NaN becomes zero_point
  void* out;
  ptrdiff_t ldo;  // bytes
};

// LayerNorm (center) or RMSNorm of rows, y = fmaf(xhat, gamma, beta):
//   u8, center  d = n * q - sum q,  v = x_scale^2 * (n * sum q^2 - (sum q)^2) / n^2,  a = x_scale / (n * sqrt(v + epsilon))
//   u8, rms     d = q - zero_point, v = x_scale^2 * sum d^2 / n,                      a = x_scale / sqrt(v + epsilon)
//   fp32        d = x - m, m = (float)mean (rms: 0), v = max(sum d^2 / n - (mean - m)^2, 0), a = 1 / sqrt(v + epsilon)
// xhat = (float)a * d; fp32: fmaf(d, (float)a, (float)((m - mean) * a)). Sums of u8 are exact integers; those of fp32 are taken
// in fp64 in 16 lanes (element i in lane i % 16), which are then added in halves: lane j to lane j + 8, + 4, + 2, + 1.
struct norm_args {
  const void* x;
  ptrdiff_t ldx;
  bool is_u8, center;
  float x_scale;
  int32_t x_zero_point;
  ptrdiff_t rows, n;
  double epsilon;
  const float *gamma, *beta;  // [n]
  const Epilogue* ep;         // as softmax's
  void* out;
  ptrdiff_t ldo;
};

// Elementwise fp32. Comparisons and logic give and take 1.0f and 0.0f. A NaN result has one bit pattern on every path. min and
// max return NaN when either operand is one. The functions are those of kernels/elementary.h.
enum class Unary : int32_t {
  copy = 0,
  neg,
  abs,
  sqrt,
  reciprocal,
  floor,
  ceil,
  round,
  sign,
  relu,
  exp,
  sigmoid,
  tanh,
  erf,
  gelu,
  silu,
  hard_sigmoid,
  hard_swish,
  logical_not,
  is_nan,
  round_to_grid
};
enum class Binary : int32_t {
  add = 0,
  sub,
  mul,
  div,
  min,
  max,
  prelu,
  less,
  less_equal,
  equal,
  logical_and,
  logical_or,
  logical_xor
};

// y = op(x); y may be x itself. round_to_grid: fl(clamp(rint(x * p[0]), p[1], p[2]) * p[3]), NaN and -0 to 0.
struct unary_args {
  Unary op;
  const float* x;
  float* y;
  ptrdiff_t n;
  const float* p;  // [4], round_to_grid only
};

// y = op(a, b); y may be a or b. A step of 0 reads one element for all.
struct arith_args {
  Binary op;
  const float *a, *b;
  ptrdiff_t a_step, b_step;  // 0 or 1
  float* y;
  ptrdiff_t n;
};

// y = c != 0 ? a : b; y may be any of them.
struct select_args {
  const float *c, *a, *b;
  ptrdiff_t c_step, a_step, b_step;
  float* y;
  ptrdiff_t n;
};

}  // namespace qgemm
