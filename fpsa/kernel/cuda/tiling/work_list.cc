#include "fpsa/kernel/cuda/tiling/work_list.h"

#include <algorithm>
#include <limits>
#include <unordered_map>

#include "fpsa/base/check.h"

namespace fpsa::kernel::cuda {
namespace {

// Query tiles of one head that see the same key tiles.
struct Alike {
  std::span<const int32_t> visible;
  std::vector<int64_t> rows;
};

uint64_t hash_of(std::span<const int32_t> tiles) {
  uint64_t hash = tiles.size();
  for (const int32_t tile : tiles)
    hash = (hash ^ static_cast<uint64_t>(tile)) * 0x9e3779b97f4a7c15 + (hash >> 29);
  return hash;
}

std::vector<Alike> sets_of(const pattern::BlockMask& mask, int64_t head) {
  std::unordered_multimap<uint64_t, size_t> known;
  std::vector<Alike> sets;
  size_t last = 0;  // neighbours often see the same tiles
  for (int64_t row = 0; row < mask.rows; ++row) {
    const auto visible = mask.visible(head, row);
    const auto same = [&](size_t set) { return std::ranges::equal(sets[set].visible, visible); };
    if (sets.empty() || !same(last)) {
      const uint64_t hash = hash_of(visible);
      auto [at, end] = known.equal_range(hash);
      while (at != end && !same(at->second))
        ++at;
      last = at == end ? sets.size() : at->second;
      if (at == end) {
        sets.push_back({visible, {}});
        known.emplace(hash, last);
      }
    }
    sets[last].rows.push_back(row);
  }
  return sets;
}

}  // namespace

WorkList::WorkList(const pattern::BlockMask& mask, const SegmentLayout& queries, const SegmentLayout& keys)
    : shared(mask.heads() == 1) {
  std::vector<WorkItem> odd;
  for (int64_t head = 0; head < mask.heads(); ++head) {
    for (const Alike& set : sets_of(mask, head)) {
      const size_t first = entries.size();
      size_t count = 0;
      for (const int32_t tile : set.visible)
        count += static_cast<size_t>(keys.begin(tile + 1) - keys.begin(tile));
      entries.resize(first + (count + 3) / 4 * 4);
      FPSA_CHECK(entries.size() <= std::numeric_limits<int32_t>::max(), "mask: its work list has more than 2^31 - 1 ",
                 "entries; use larger tiles or one mask for all heads");
      int32_t* entry = entries.data() + first;
      for (const int32_t tile : set.visible)
        for (int32_t segment = keys.begin(tile); segment < keys.begin(tile + 1); ++segment)
          *entry++ = key_entry(segment, keys.valid(segment));
      const size_t before = items.size();
      int used = kItemSegments;
      for (const int64_t row : set.rows) {
        for (int32_t segment = queries.begin(row); segment < queries.begin(row + 1); ++segment) {
          if (used == kItemSegments) {
            items.push_back({{-1, -1, -1, -1},
                             static_cast<int32_t>(first),
                             static_cast<int32_t>(entries.size() - first),
                             static_cast<int32_t>(head),
                             0});
            used = 0;
          }
          items.back().query_segment[used++] = segment;
        }
      }
      if ((items.size() - before) % 2 != 0) {
        odd.push_back(items.back());
        items.pop_back();
      }
    }
  }
  paired = static_cast<int64_t>(items.size());
  items.insert(items.end(), odd.begin(), odd.end());
}

pattern::BlockMask exchanged(const pattern::BlockMask& mask) {
  if (mask.heads() == 1) {
    pattern::BlockMask result = pattern::transposed(mask, 0);
    result.shared = mask.shared;
    return result;
  }
  std::vector<pattern::BlockMask> heads;
  for (int64_t head = 0; head < mask.heads(); ++head)
    heads.push_back(pattern::transposed(mask, head));
  return pattern::per_head(heads);
}

double waste(const WorkList& work, const pattern::BlockMask& mask, const SegmentLayout& queries,
             const SegmentLayout& keys) {
  double executed = 0, visible = 0;
  for (const WorkItem& item : work.items)
    for (int group = 0; group < 2; ++group)
      if (item.query_segment[2 * group] >= 0) executed += 2.0 * kSegment * item.entries * kSegment;
  const auto tokens = [](const SegmentLayout& layout, int64_t tile) {
    int64_t count = 0;
    for (int32_t segment = layout.begin(tile); segment < layout.begin(tile + 1); ++segment)
      count += layout.valid(segment);
    return static_cast<double>(count);
  };
  for (int64_t head = 0; head < mask.heads(); ++head) {
    for (int64_t row = 0; row < mask.rows; ++row) {
      double seen = 0;
      for (const int32_t tile : mask.visible(head, row))
        seen += tokens(keys, tile);
      visible += seen * tokens(queries, row);
    }
  }
  return visible > 0 ? executed / visible - 1 : 0;
}

}  // namespace fpsa::kernel::cuda
