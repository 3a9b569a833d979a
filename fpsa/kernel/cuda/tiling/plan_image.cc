#include "fpsa/kernel/cuda/tiling/plan_image.h"

#include <cstring>

#include "fpsa/kernel/cuda/tiling/quantize_plan.h"

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
  const QuantizePlan steps(layout, order.to_raster(), token_groups.of_token, token_groups.count);
  segments = layout.segments();
  slots = layout.slots();
  units = steps.units;
  shared_mask = work.shared;
  column_scales = runs_end_inside_segments(order, token_groups);
  item_count = static_cast<int64_t>(work.items.size());
  paired = work.paired;
  entry_count = static_cast<int64_t>(work.entries.size());
  const auto take = [&](int64_t bytes) {
    const int64_t begin = size_;
    size_ += (bytes + 255) / 256 * 256;
    return begin;
  };
  items = take(item_count * static_cast<int64_t>(sizeof(WorkItem)));
  entries = take(entry_count * 4);
  quantize = take(static_cast<int64_t>(steps.words.size()) * 4);
  bytes_ = std::make_unique_for_overwrite<std::byte[]>(static_cast<size_t>(size_));
  const auto put = [&](const auto& list, int64_t offset) {
    std::memcpy(bytes_.get() + offset, list.data(), list.size() * sizeof list[0]);
  };
  put(work.items, items);
  put(work.entries, entries);
  put(steps.words, quantize);
}

}  // namespace fpsa::kernel::cuda
