// The token grid of one video and the 3-D boxes that tile it.
#pragma once

#include <cstdint>

namespace fpsa::pattern {

/// Extents along (T, Y, X): frames, rows, columns of latent tokens. X is innermost in raster order.
/// The same type serves tiles, windows (in tiles) and granularities (in tokens).
struct Grid {
  int64_t t = 1, y = 1, x = 1;

  int64_t volume() const { return t * y * x; }
  bool operator==(const Grid&) const = default;
};

}  // namespace fpsa::pattern
