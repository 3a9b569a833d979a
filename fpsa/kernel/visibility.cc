#include "fpsa/kernel/visibility.h"

#include <algorithm>

namespace fpsa::kernel {
namespace {

void append_ranges(std::span<const int32_t> tiles, std::span<const int32_t> tile_begin, std::vector<KeyRange>& ranges) {
  const size_t first = ranges.size();
  for (const int32_t tile : tiles) {
    const int32_t begin = tile_begin[static_cast<size_t>(tile)], end = tile_begin[static_cast<size_t>(tile) + 1];
    if (begin == end) continue;
    if (ranges.size() > first && ranges.back().end == begin)
      ranges.back().end = end;
    else
      ranges.push_back({begin, end});
  }
}

}  // namespace

Visibility::Visibility(const pattern::BlockMask& mask, int64_t head, std::span<const int32_t> query_tile_begin,
                       std::span<const int32_t> key_tile_begin) {
  struct Run {
    int32_t begin, end;
    size_t first_range, range_count;
  };
  std::vector<Run> runs;
  for (int64_t row = 0; row < mask.rows;) {
    const auto visible = mask.visible(head, row);
    int64_t last = row + 1;
    while (last < mask.rows && std::ranges::equal(visible, mask.visible(head, last)))
      ++last;
    const size_t first = ranges_.size();
    append_ranges(visible, key_tile_begin, ranges_);
    runs.push_back({query_tile_begin[static_cast<size_t>(row)], query_tile_begin[static_cast<size_t>(last)], first,
                    ranges_.size() - first});
    row = last;
  }
  for (const Run& run : runs)
    add_run(run.begin, run.end, static_cast<int64_t>(run.first_range), static_cast<int64_t>(run.range_count));
}

Visibility Visibility::transposed(const pattern::BlockMask& mask, int64_t head,
                                  std::span<const int32_t> query_tile_begin, std::span<const int32_t> key_tile_begin) {
  return Visibility(pattern::transposed(mask, head), 0, key_tile_begin, query_tile_begin);
}

Visibility Visibility::dense(int64_t queries, int64_t keys) {
  Visibility all;
  if (keys > 0) all.ranges_.push_back({0, static_cast<int32_t>(keys)});
  all.add_run(0, static_cast<int32_t>(queries), 0, static_cast<int64_t>(all.ranges_.size()));
  return all;
}

void Visibility::add_run(int32_t begin, int32_t end, int64_t first_range, int64_t range_count) {
  const int64_t rows = end - begin;  // up to 2^31 - 1, which leaves an int32_t no room to round up
  const int64_t pieces = (rows + kMaxQueryRows - 1) / kMaxQueryRows;
  // Equal pieces in multiples of 12 rows (register tiles have 6 or 4): no short piece at the end of each run.
  constexpr int64_t kStep = 12;
  const int64_t size = pieces == 0 ? 0 : std::min<int64_t>((rows / pieces + kStep) / kStep * kStep, kMaxQueryRows);
  for (int64_t at = begin; at < end; at += size)
    blocks_.push_back({static_cast<int32_t>(at), static_cast<int32_t>(std::min<int64_t>(at + size, end)),
                       ranges_.data() + first_range, static_cast<int32_t>(range_count)});
}

}  // namespace fpsa::kernel
