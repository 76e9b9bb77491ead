#include "kernels/epilogue__avx2.h"

namespace qgemm {
namespace avx2 {
namespace {

__attribute__((noinline)) void one_row(const max_pool_args& g, const uint8_t* const* rows, uint8_t* to_row) {
  const ptrdiff_t n = g.channels;
  for (int64_t x = 0; x < g.pixels; ++x) {
    int64_t column = g.first + x * g.stride;
    int from = 0, to = g.taps;  // the taps that lie inside
    while (from < to && column + from * g.dilation < 0) ++from;
    while (from < to && column + (to - 1) * g.dilation >= g.columns) --to;
    column += from * g.dilation;
    uint8_t* out = to_row + x * g.ldo;
    const ptrdiff_t first = column * g.pixel, step = g.dilation * g.pixel;
    // f(pointer) of every pixel in the window.
    const auto each = [&](ptrdiff_t c, auto f) __attribute__((always_inline)) {
      for (int r = 0; r < g.height; ++r) {
        ptrdiff_t at = first + c;
        for (int t = from; t < to; ++t, at += step) f(rows[r] + at);
      }
    };
    ptrdiff_t c = 0;
    for (; c + 32 <= n; c += 32) {
      __m256i m = _mm256_setzero_si256();
      each(c, [&](const uint8_t* p) { m = _mm256_max_epu8(m, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); });
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + c), m);
    }
    if (c + 16 <= n) {
      __m128i m = _mm_setzero_si128();
      each(c, [&](const uint8_t* p) { m = _mm_max_epu8(m, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); });
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + c), m);
      c += 16;
    }
    if (c + 8 <= n) {
      __m128i m = _mm_setzero_si128();
      each(c, [&](const uint8_t* p) { m = _mm_max_epu8(m, _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))); });
      _mm_storel_epi64(reinterpret_cast<__m128i*>(out + c), m);
      c += 8;
    }
    for (; c < n; ++c) {
      uint8_t m = 0;
      each(c, [&](const uint8_t* p) { m = *p > m ? *p : m; });
      out[c] = m;
    }
  }
}

}  // namespace

void max_pool_u8_1x32(const max_pool_args& g) {
  for (int64_t i = 0; i < g.outputs; ++i) one_row(g, g.rows + i * g.advance, g.out + i * g.ldr);
}

}  // namespace avx2
}  // namespace qgemm
