#include "fpsa/plan/geometry.h"

#include <algorithm>
#include <utility>

#include "fpsa/base/check.h"

namespace fpsa::plan {
namespace {

int64_t visible_pairs(const kernel::QueryBlock& block) {
  int64_t keys = 0;
  for (int32_t r = 0; r < block.range_count; ++r)
    keys += block.ranges[r].end - block.ranges[r].begin;
  return keys * (block.end - block.begin);
}

// Costly blocks first, so that the last ones, which some workers find nothing beside, are small. Only by classes of
// a quarter of the largest: within a class neighbours stay neighbours, and these see much the same keys.
std::vector<kernel::QueryBlock> by_cost(std::span<const kernel::QueryBlock> blocks) {
  std::vector<std::pair<int64_t, kernel::QueryBlock>> costs;
  int64_t largest = 1;
  for (const auto& block : blocks) {
    costs.emplace_back(visible_pairs(block), block);
    largest = std::max(largest, costs.back().first);
  }
  for (auto& [cost, block] : costs)
    cost = (4 * cost + largest - 1) / largest;
  std::ranges::stable_sort(costs, std::greater<>{}, [](const auto& entry) { return entry.first; });
  std::vector<kernel::QueryBlock> sorted;
  for (const auto& [cost, block] : costs)
    sorted.push_back(block);
  return sorted;
}

}  // namespace

Geometry::Geometry(const pattern::Grid& grid, const pattern::Grid& tile, const pattern::Grid& granularity,
                   pattern::BlockMask mask)
    : order_(grid, tile, granularity), groups_(pattern::token_groups(order_)), mask_(std::move(mask)) {
  pattern::check_mask(mask_);
  FPSA_CHECK(mask_.rows == order_.tile_count() && mask_.cols == order_.tile_count(), "mask: expected ",
             order_.tile_count(), " x ", order_.tile_count(), " tiles for grid ", pattern::to_string(grid),
             " and tile ", pattern::to_string(tile), ", got ", mask_.rows, " x ", mask_.cols);
  for (int64_t head = 0; head < mask_.heads(); ++head) {
    visibility_.emplace_back(mask_, head, order_.tile_begin(), order_.tile_begin());
    work_.push_back(by_cost(visibility_.back().blocks()));
  }
  sort_runs();
  density_ = pattern::density(mask_, order_);
  dense_ = static_cast<int64_t>(mask_.col.size()) == mask_.heads() * mask_.rows * mask_.cols;
}

const kernel::Visibility& Geometry::transposed(int64_t head) const {
  std::call_once(transposed_once_, [this] {
    std::vector<kernel::Visibility> made;
    for (int64_t h = 0; h < mask_.heads(); ++h)
      made.push_back(kernel::Visibility::transposed(mask_, h, order_.tile_begin(), order_.tile_begin()));
    transposed_ = std::move(made);
  });
  return transposed_[stored(head)];
}

// A counting sort, so that the runs of a group stay in order.
void Geometry::sort_runs() {
  group_begin_.assign(static_cast<size_t>(groups_.count) + 1, 0);
  for (const int32_t group : groups_.run_group)
    ++group_begin_[static_cast<size_t>(group) + 1];
  for (size_t group = 1; group < group_begin_.size(); ++group)
    group_begin_[group] += group_begin_[group - 1];
  std::vector<int32_t> next = group_begin_;
  group_runs_.resize(groups_.run_group.size());
  for (size_t run = 0; run < group_runs_.size(); ++run)
    group_runs_[static_cast<size_t>(next[static_cast<size_t>(groups_.run_group[run])]++)] = static_cast<int32_t>(run);
}

}  // namespace fpsa::plan
