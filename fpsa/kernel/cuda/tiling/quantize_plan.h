// In which order quantize_sm90a takes the tokens of Q and K, so that it reads them from memory once.
//
// A scale needs the largest magnitude of its group, and a group of 6x8x8 tokens with all heads side by side (3.9 MB)
// fits no block's memory. So rows are read twice, first for magnitudes, then for codes, and the second time soon enough
// to come from L2. Tokens are taken as quads, four slots that follow one another. Quads whose groups are independent of
// all others' form a unit: a tile, or the tiles that a larger group joins. A unit's codes come a number of quads
// after its magnitudes: late enough that these are complete when the codes need them, early enough that L2 still has
// the rows. One group over the whole grid is one unit, and is then read from memory twice.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "fpsa/kernel/cuda/tiling/segments.h"

namespace fpsa::kernel::cuda {

inline constexpr int kQuad = 4;  // slots

/// Quads by which codes lag behind magnitudes. Two blocks of threads on each of 132 multiprocessors, each with a quad
/// in work, one on its way and one known, have 792 tasks under way. Once codes and magnitudes alternate, twice the lag
/// lies between the last magnitudes of a unit and its first codes. With rows of 10 KB it is 16 MB, with a unit of a
/// tile 20 of L2's 50.
inline constexpr int64_t kQuadLag = 400;

/// One task of the kernel: the magnitudes or the codes of a quad.
FPSA_BOTH int32_t quantize_task(int32_t quad, bool codes) {
  return quad << 1 | (codes ? 1 : 0);
}
FPSA_BOTH int32_t task_quad(int32_t task) {
  return task >> 1;
}
FPSA_BOTH bool task_has_codes(int32_t task) {
  return (task & 1) != 0;
}

struct QuantizePlan {
  /// Shapes    to_raster, group_of_position [tokens]: pattern::TileOrder's and pattern::TokenGroups'
  QuantizePlan(const SegmentLayout& layout, std::span<const int32_t> to_raster,
               std::span<const int32_t> group_of_position, int64_t groups, int64_t lag = kQuadLag);

  int64_t slots, groups, units;
  /// For the device, one after the other: row_of_slot [slots], the raster row or -1; group_of_slot [slots], the group,
  /// of the segment's first slot where there is no token; tasks [2 slots/4]; unit_of_quad [slots/4]; quads_of_unit
  /// [units].
  std::vector<int32_t> words;
};

/// The parts of QuantizePlan::words.
struct QuantizePlanView {
  const int32_t *row_of_slot, *group_of_slot, *tasks, *unit_of_quad, *quads_of_unit;
};
FPSA_BOTH QuantizePlanView view_of(const int32_t* words, int64_t slots) {
  return {words, words + slots, words + 2 * slots, words + 2 * slots + slots / 2, words + 2 * slots + slots / 4 * 3};
}

}  // namespace fpsa::kernel::cuda
