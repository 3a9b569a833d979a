// What the sm_90a kernels read of a grid, a granularity and a mask, as one block of bytes that is copied to a device
// once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "fpsa/kernel/cuda/tiling/work_list.h"
#include "fpsa/pattern/mask.h"
#include "fpsa/pattern/order.h"

namespace fpsa::kernel::cuda {

/// The arrays of a plan and where each begins in the block, in bytes, at multiples of 256.
///   Shapes    items [item_count]; entries [entry_count]; quantize: QuantizePlan::words, whose first are row_of_slot
///             [slots]: the raster row, -1 for none
class PlanImage {
 public:
  /// Errors    as SegmentLayout and WorkList
  PlanImage(const pattern::TileOrder& order, const pattern::TokenGroups& groups, const pattern::BlockMask& mask);

  std::span<const std::byte> bytes() const { return {bytes_.get(), static_cast<size_t>(size_)}; }
  /// Frees the bytes once they are copied; offsets and counts stay.
  void drop_bytes() {
    bytes_.reset();
    size_ = 0;
  }

  int64_t items = 0, entries = 0, quantize = 0;  // offsets
  int64_t item_count = 0, paired = 0;            // paired: WorkList::paired
  int64_t entry_count = 0, segments = 0, slots = 0, tokens = 0, groups = 0, units = 0;
  bool shared_mask = true, column_scales = false;

 private:
  std::unique_ptr<std::byte[]> bytes_;
  int64_t size_ = 0;
};

}  // namespace fpsa::kernel::cuda
