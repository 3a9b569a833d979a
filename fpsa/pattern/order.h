// Token order inside attention, and the groups of tokens that share a scale.
//
// Tile after tile (tiles in raster order), raster inside a tile. Where the granularity is finer than the tile
// on some axis, the tile is walked sub-tile after sub-tile instead (sub-tile = min(granularity, tile) per axis,
// sub-tiles in raster order, raster inside each), so that every group is one contiguous run inside the tile.
// Tiles never change their place or their set of tokens, so masks do not depend on the granularity.
#pragma once

#include <cstdint>
#include <vector>

#include "fpsa/pattern/grid.h"

namespace fpsa::pattern {

/// The bijection between raster order and tile order of one grid.
///   Shapes    tile i of an axis of n tokens covers [i*t, min((i+1)*t, n)); there is no padding, and a tile may
///             be larger than the grid
///   Errors    extents below 1, more than kMaxTokens tokens, a granularity that is neither a multiple nor a
///             divisor of the tile on some axis
class TileOrder {
 public:
  /// Raster inside a tile; the granularity is the tile.
  TileOrder(const Grid& grid, const Grid& tile) : TileOrder(grid, tile, tile) {}
  TileOrder(const Grid& grid, const Grid& tile, const Grid& granularity);

  const Grid& grid() const { return grid_; }
  const Grid& tile() const { return tile_; }
  const Grid& granularity() const { return granularity_; }
  const Grid& tile_grid() const { return tile_grid_; }  // tiles per axis
  int64_t tokens() const { return static_cast<int64_t>(to_raster_.size()); }
  int64_t tile_count() const { return static_cast<int64_t>(tile_begin_.size()) - 1; }

  /// to_raster()[position in tile order] = raster index; from_raster() is its inverse.
  const std::vector<int32_t>& to_raster() const { return to_raster_; }
  const std::vector<int32_t>& from_raster() const { return from_raster_; }

  /// Tile i holds the positions [tile_begin(i), tile_begin(i + 1)); the vector has tile_count() + 1 entries.
  const std::vector<int32_t>& tile_begin() const { return tile_begin_; }
  int32_t tile_begin(int64_t tile) const { return tile_begin_[static_cast<size_t>(tile)]; }
  int32_t tile_tokens(int64_t tile) const { return tile_begin(tile + 1) - tile_begin(tile); }

 private:
  Grid grid_, tile_, granularity_, tile_grid_;
  std::vector<int32_t> to_raster_, from_raster_, tile_begin_;
};

/// Which tokens share a scale: group (a, b, c) covers [a*gt, (a+1)*gt) x [b*gy, ...) x [c*gx, ...), cut at the
/// grid's end. Groups are numbered by their first token in tile order, which is raster order of the groups when
/// none is finer than a tile.
///
/// A run is a maximal range of consecutive positions inside one tile that have the same group. A fine group is
/// exactly one run; a group as large as the tile or coarser is one run per tile it holds.
struct TokenGroups {
  int64_t count = 0;
  std::vector<int32_t> of_token;   // [L], group of the token at each position in tile order
  std::vector<int32_t> run_begin;  // [runs + 1], first position of each run; the last entry is L
  std::vector<int32_t> run_group;  // [runs]
};

/// Returns the groups of the order's own granularity.
TokenGroups token_groups(const TileOrder& order);

}  // namespace fpsa::pattern
