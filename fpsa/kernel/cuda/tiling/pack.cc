#include "fpsa/kernel/cuda/tiling/pack.h"

#include <cstring>

namespace fpsa::kernel::cuda {

void pack_codes(const SegmentLayout& layout, const uint8_t* codes, int64_t dim, uint8_t* packed) {
  for (const int32_t position : layout.position_of_slot()) {
    if (position < 0)
      std::memset(packed, 0, static_cast<size_t>(dim));
    else
      std::memcpy(packed, codes + position * dim, static_cast<size_t>(dim));
    packed += dim;
  }
}

void pack_values(const SegmentLayout& layout, const uint8_t* codes, int64_t dim, uint8_t* packed) {
  const auto positions = layout.position_of_slot();
  for (size_t slot = 0; slot < positions.size(); ++slot) {
    const auto segment = static_cast<int64_t>(slot / kSegment);
    uint8_t* to = packed + segment * dim * kSegment + value_place(static_cast<int>(slot % kSegment));
    for (int64_t d = 0; d < dim; ++d)
      to[d * kSegment] = positions[slot] < 0 ? 0 : codes[positions[slot] * dim + d];
  }
}

void pack_scales(const SegmentLayout& layout, const float* scale, float* packed) {
  const auto positions = layout.position_of_slot();
  for (size_t slot = 0; slot < positions.size(); ++slot) {
    const int32_t position = positions[slot] < 0 ? positions[slot / kSegment * kSegment] : positions[slot];
    packed[slot] = scale[position];
  }
}

void rows_of_slots(const SegmentLayout& layout, std::span<const int32_t> to_raster, int32_t* row_of_slot) {
  for (const int32_t position : layout.position_of_slot())
    *row_of_slot++ = position < 0 ? -1 : to_raster[static_cast<size_t>(position)];
}

bool needs_column_scales(const SegmentLayout& layout, std::span<const int32_t> group_of_position) {
  const auto positions = layout.position_of_slot();
  for (size_t slot = 0; slot < positions.size(); ++slot) {
    if (positions[slot] < 0) continue;
    const int32_t first = positions[slot / kSegment * kSegment];
    if (group_of_position[static_cast<size_t>(positions[slot])] != group_of_position[static_cast<size_t>(first)])
      return true;
  }
  return false;
}

}  // namespace fpsa::kernel::cuda
