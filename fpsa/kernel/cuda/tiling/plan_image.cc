#include "fpsa/kernel/cuda/tiling/plan_image.h"

#include <algorithm>
#include <cstring>

namespace fpsa::kernel::cuda {

namespace {

// Whether a segment has tokens of several groups: a run of a group ends inside it.
bool runs_end_inside_segments(const pattern::TileOrder& order, const pattern::TokenGroups& groups) {
  int64_t tile = 0;
  for (const int32_t begin : groups.run_begin) {
    while (tile < order.tile_count() && begin >= order.tile_begin(tile + 1))
      ++tile;
    if (tile < order.tile_count() && (begin - order.tile_begin(tile)) % kSegment != 0) return true;
  }
  return false;
}

}  // namespace

PlanImage::PlanImage(const pattern::TileOrder& order, const pattern::TokenGroups& token_groups,
                     const pattern::BlockMask& mask)
    : tokens(order.tokens()), groups(token_groups.count) {
  const SegmentLayout layout(order.tile_begin());
  const WorkList work(mask, layout, layout);
  segments = layout.segments();
  slots = layout.slots();
  shared_mask = work.shared;
  column_scales = runs_end_inside_segments(order, token_groups);
  item_count = static_cast<int64_t>(work.items.size());
  entry_count = static_cast<int64_t>(work.entries.size());
  const auto take = [&](int64_t bytes) {
    const int64_t begin = size_;
    size_ += (bytes + 255) / 256 * 256;
    return begin;
  };
  items = take(item_count * static_cast<int64_t>(sizeof(WorkItem)));
  entries = take(entry_count * 4);
  row_of_slot = take(slots * 4);
  group_of_slot = take(slots * 4);
  bytes_ = std::make_unique_for_overwrite<std::byte[]>(static_cast<size_t>(size_));
  const auto put = [&](const auto& list, int64_t offset) {
    std::memcpy(bytes_.get() + offset, list.data(), list.size() * sizeof list[0]);
  };
  put(work.items, items);
  put(work.entries, entries);
  // A tile's tokens are neighbours both by position and by slot, and only its last slots are empty.
  const auto spread = [&](const std::vector<int32_t>& by_position, int64_t offset) {
    auto* by_slot = reinterpret_cast<int32_t*>(bytes_.get() + offset);
    for (int64_t tile = 0; tile < order.tile_count(); ++tile) {
      const auto begin = by_position.begin() + order.tile_begin(tile), end = begin + order.tile_tokens(tile);
      std::fill(std::copy(begin, end, by_slot + int64_t{layout.begin(tile)} * kSegment),
                by_slot + int64_t{layout.begin(tile + 1)} * kSegment, -1);
    }
  };
  spread(order.to_raster(), row_of_slot);
  spread(token_groups.of_token, group_of_slot);
}

}  // namespace fpsa::kernel::cuda
