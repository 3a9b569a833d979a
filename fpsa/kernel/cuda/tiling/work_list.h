// What one block of threads does at a time: query rows that see the same keys, and the list of those keys.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "fpsa/kernel/cuda/tiling/segments.h"
#include "fpsa/pattern/mask.h"

namespace fpsa::kernel::cuda {

/// A segment of keys in a list: its index and how many of its keys exist. 0 ends a list to a whole number of blocks.
FPSA_BOTH int32_t key_entry(int32_t segment, int valid) {
  return segment << 6 | valid;
}
FPSA_BOTH int32_t entry_segment(int32_t entry) {
  return entry >> 6;
}
FPSA_BOTH int entry_valid(int32_t entry) {
  return entry & 63;
}
/// Whether all keys of a segment exist.
FPSA_BOTH bool entry_full(int32_t entry) {
  return (entry & 32) != 0;
}

/// Two groups of 64 query rows, one for each consumer warpgroup, each of two segments (-1: none).
struct WorkItem {
  int32_t query_segment[4];
  int32_t first_entry, entries;  // of WorkList::entries; entries is a multiple of 4
  int32_t head;                  // of the mask, 0 where it is shared
  int32_t unused;
};
inline constexpr int kItemSegments = 4;

/// The items of a mask's heads. Rows that see the same keys are taken together wherever their tiles lie, so only the
/// last item of such a set has rows to spare: the tile order follows the window.
///
/// The first `paired` items are pairs, 2 i and 2 i + 1, with the same list and head, for clusters of two blocks of
/// threads; then comes the odd one of each set. Both parts are in the order of heads and sets.
struct WorkList {
  std::vector<WorkItem> items;
  std::vector<int32_t> entries;
  int64_t paired = 0;
  bool shared = true;

  /// Shapes    mask rows are tiles of `queries`, columns tiles of `keys`
  /// Errors    more than 2^31 - 1 entries
  WorkList(const pattern::BlockMask& mask, const SegmentLayout& queries, const SegmentLayout& keys);
};

/// The mask of every head with its sides exchanged: its work list, with the layouts exchanged too, is that of a pass
/// whose rows are keys, each with the queries that see it.
pattern::BlockMask exchanged(const pattern::BlockMask& mask);

/// Executed multiply-adds / visible ones - 1, averaged over the mask's heads by their work; 0 for an empty mask.
double waste(const WorkList& work, const pattern::BlockMask& mask, const SegmentLayout& queries,
             const SegmentLayout& keys);

/// Which item of which (batch, head) is number `index` of a launch: batches outermost, heads next, so that blocks that
/// run at the same time read the same keys and values from L2.
struct Place {
  int32_t batch, head, item;
};
FPSA_BOTH Place place_of(int32_t index, int32_t items, int32_t heads, bool shared, const WorkItem* list) {
  if (shared) {
    const int32_t job = index / items;
    return {job / heads, job % heads, index % items};
  }
  return {index / items, list[index % items].head, index % items};
}

/// The same when the pairs of all heads and batches come first: `paired` is WorkList::paired. Then items 2 i and 2 i +
/// 1 of the launch are a pair or both none, and blocks that take items with a stride of an even grid take a pair
/// together.
FPSA_BOTH Place place_of_pairs_first(int32_t index, int32_t items, int32_t paired, int32_t batch, int32_t heads,
                                     bool shared, const WorkItem* list) {
  const int32_t in_pairs = paired * batch * (shared ? heads : 1);
  if (index < in_pairs) return place_of(index, paired, heads, shared, list);
  Place place = place_of(index - in_pairs, items - paired, heads, shared, list + paired);
  place.item += paired;
  return place;
}

}  // namespace fpsa::kernel::cuda
