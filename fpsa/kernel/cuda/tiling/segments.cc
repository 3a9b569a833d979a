#include "fpsa/kernel/cuda/tiling/segments.h"

#include <algorithm>

#include "fpsa/base/check.h"

namespace fpsa::kernel::cuda {

SegmentLayout::SegmentLayout(std::span<const int32_t> tile_begin) : tokens_(tile_begin.back()), segment_begin_{0} {
  int64_t segments = 0;
  for (size_t tile = 0; tile + 1 < tile_begin.size(); ++tile)
    segments += (int64_t{tile_begin[tile + 1]} - tile_begin[tile] + kSegment - 1) / kSegment;
  FPSA_CHECK(segments <= int64_t{1} << 25, "tile: the grid needs ", segments,
             " segments of 32 tokens, at most 2^25 are possible; use larger tiles");
  position_of_slot_.assign(static_cast<size_t>(segments) * kSegment, -1);
  for (size_t tile = 0; tile + 1 < tile_begin.size(); ++tile) {
    size_t slot = static_cast<size_t>(segment_begin_.back()) * kSegment;
    for (int32_t at = tile_begin[tile]; at < tile_begin[tile + 1]; at += kSegment)
      valid_.push_back(static_cast<uint8_t>(std::min(kSegment, tile_begin[tile + 1] - at)));
    for (int32_t at = tile_begin[tile]; at < tile_begin[tile + 1]; ++at)
      position_of_slot_[slot++] = at;
    segment_begin_.push_back(static_cast<int32_t>(valid_.size()));
  }
}

}  // namespace fpsa::kernel::cuda
