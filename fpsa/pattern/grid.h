// The token grid of one video and the 3-D boxes that tile it.
#pragma once

#include <cstdint>
#include <limits>
#include <string>

namespace fpsa::pattern {

/// Extents along (T, Y, X): frames, rows, columns of latent tokens. X is innermost in raster order.
/// The same type serves tiles, windows (in tiles) and granularities (in tokens).
struct Grid {
  int64_t t = 1, y = 1, x = 1;

  /// Unchecked; checked_volume() is for extents that come from outside.
  int64_t volume() const { return t * y * x; }
  bool operator==(const Grid&) const = default;
};

/// A window extent that covers any axis: w >= n means all tiles.
inline constexpr int64_t kAllTiles = std::numeric_limits<int32_t>::max();
inline constexpr Grid kFullWindow = {kAllTiles, kAllTiles, kAllTiles};

/// Largest number of tokens, so that every position fits an int32_t.
inline constexpr int64_t kMaxTokens = std::numeric_limits<int32_t>::max();

/// "TxYxX", for messages.
std::string to_string(const Grid& grid);

/// Returns t*y*x. `name` is how messages call the grid.
///   Errors    an extent below 1, or a product above kMaxTokens
int64_t checked_volume(const Grid& grid, const std::string& name);

/// Number of tiles per axis, the remainder tile included: ceil(grid / tile).
///   Errors    an extent of grid or tile below 1, a tile extent above kMaxTokens, more than kMaxTokens tokens in grid
Grid tiles_per_axis(const Grid& grid, const Grid& tile);

/// Checks that per axis the granularity is a multiple or a divisor of the tile.
///   Errors    names the axis, both extents and the nearest legal values
void check_granularity(const Grid& granularity, const Grid& tile);

}  // namespace fpsa::pattern
