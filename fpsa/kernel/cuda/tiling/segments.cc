#include "fpsa/kernel/cuda/tiling/segments.h"

#include <algorithm>
#include <numeric>

#include "fpsa/base/check.h"

namespace fpsa::kernel::cuda {

SegmentLayout::SegmentLayout(std::span<const int32_t> tile_begin) : tokens_(tile_begin.back()), segment_begin_{0} {
  int64_t segments = 0;
  for (size_t tile = 0; tile + 1 < tile_begin.size(); ++tile)
    segments += (int64_t{tile_begin[tile + 1]} - tile_begin[tile] + kSegment - 1) / kSegment;
  FPSA_CHECK(segments <= int64_t{1} << 25, "tile: the grid needs ", segments,
             " segments of 32 tokens, at most 2^25 are possible; use larger tiles");
  position_of_slot_.resize(static_cast<size_t>(segments) * kSegment);
  valid_.reserve(static_cast<size_t>(segments));
  segment_begin_.reserve(tile_begin.size());
  int32_t* slot = position_of_slot_.data();
  for (size_t tile = 0; tile + 1 < tile_begin.size(); ++tile) {
    const int32_t begin = tile_begin[tile], end = tile_begin[tile + 1];
    for (int32_t at = begin; at < end; at += kSegment)
      valid_.push_back(static_cast<uint8_t>(std::min(kSegment, end - at)));
    segment_begin_.push_back(static_cast<int32_t>(valid_.size()));
    std::iota(slot, slot + (end - begin), begin);
    int32_t* next = position_of_slot_.data() + int64_t{segment_begin_.back()} * kSegment;
    std::fill(slot + (end - begin), next, -1);
    slot = next;
  }
}

}  // namespace fpsa::kernel::cuda
