// How the rows of a product's strip are cut in tiles of at most tile_rows: evenly, since a low tile reads the panel as often as a
// high one. 13 rows in tiles of 6 are 5+4+4.
#pragma once
#include <cstdint>

namespace qgemm {

// Rows of the next tile, where `left` of the strip are left.
static inline int32_t product_tile(int32_t left, int32_t tile_rows) {
  const int32_t tiles = (left + tile_rows - 1) / tile_rows;
  return (left + tiles - 1) / tiles;
}

}  // namespace qgemm
