// The memory of the sm_90a kernels as plain loops: the specification of what quantize_sm90a writes for one head.
#pragma once

#include <cstdint>
#include <span>

#include "fpsa/kernel/cuda/tiling/segments.h"

namespace fpsa::kernel::cuda {

/// Codes of Q or K by position [tokens, D] to slots [slots, D]; zeros where there is no token.
void pack_codes(const SegmentLayout& layout, const uint8_t* codes, int64_t dim, uint8_t* packed);
/// Codes of V by position [tokens, D] to [segments, D, 32], in the order of value_place(); zeros likewise.
void pack_values(const SegmentLayout& layout, const uint8_t* codes, int64_t dim, uint8_t* packed);
/// Scales by position to slots. Slots without a token repeat the scale of the segment's first one, so that a segment of
/// one scale has it in every slot.
void pack_scales(const SegmentLayout& layout, const float* scale, float* packed);
/// The raster row at each slot, -1 for none.
///   Shapes    to_raster [tokens], row_of_slot [slots]
void rows_of_slots(const SegmentLayout& layout, std::span<const int32_t> to_raster, int32_t* row_of_slot);

/// Whether some segment has tokens of more than one scale group.
///   Shapes    group_of_position [tokens]
bool needs_column_scales(const SegmentLayout& layout, std::span<const int32_t> group_of_position);

}  // namespace fpsa::kernel::cuda
