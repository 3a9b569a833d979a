// Tokens in the memory of the sm_90a kernels: tile order, each tile filled up to whole segments of 32.
//
// A place there is a slot. Slots without a token hold zeros and are never seen as keys. Tiles of 6x8x8 are 12 segments;
// what the filling costs is known from the grid alone: 0.7% on 21x45x80, 0.5% on 21x30x52.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "fpsa/kernel/cuda/tiling/fragments.h"

namespace fpsa::kernel::cuda {

class SegmentLayout {
 public:
  /// Shapes    tile_begin [tiles + 1]: first position of each tile in tile order, as pattern::TileOrder has it
  /// Errors    more than 2^25 segments, which an entry of a work list cannot hold
  explicit SegmentLayout(std::span<const int32_t> tile_begin);

  int64_t segments() const { return segment_begin_.back(); }
  int64_t slots() const { return segments() * kSegment; }
  int64_t tokens() const { return tokens_; }
  /// Segments [begin(i), begin(i + 1)) hold tile i.
  int32_t begin(int64_t tile) const { return segment_begin_[static_cast<size_t>(tile)]; }
  /// Tokens in a segment, from its start: 1 to 32.
  int valid(int64_t segment) const { return valid_[static_cast<size_t>(segment)]; }
  /// The position in tile order at each slot; -1 for none.
  std::span<const int32_t> position_of_slot() const { return position_of_slot_; }

 private:
  int64_t tokens_;
  std::vector<int32_t> segment_begin_, position_of_slot_;
  std::vector<uint8_t> valid_;
};

}  // namespace fpsa::kernel::cuda
