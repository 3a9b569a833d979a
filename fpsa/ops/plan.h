// What attention needs to know about a grid, a tile, a pattern and a granularity, computed once and shared.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "fpsa/kernel/visibility.h"
#include "fpsa/pattern/mask.h"
#include "fpsa/pattern/order.h"

namespace fpsa::ops {

/// Immutable after construction, so any number of threads may use one.
class Plan {
 public:
  /// Errors    as pattern::TileOrder and pattern::check_mask; a mask whose tile counts are not those of the grid
  Plan(const pattern::Grid& grid, const pattern::Grid& tile, const pattern::Grid& granularity, pattern::BlockMask mask);

  const pattern::TileOrder& order() const { return order_; }
  const pattern::TokenGroups& groups() const { return groups_; }
  const pattern::BlockMask& mask() const { return mask_; }
  int64_t tokens() const { return order_.tokens(); }
  double density() const { return density_; }
  bool dense() const { return dense_; }  // every query sees every key, in every head
  const kernel::Visibility& visibility(int64_t head) const {
    return visibility_[visibility_.size() == 1 ? 0 : static_cast<size_t>(head)];
  }

 private:
  pattern::TileOrder order_;
  pattern::TokenGroups groups_;
  pattern::BlockMask mask_;
  std::vector<kernel::Visibility> visibility_;  // one when the mask is shared
  double density_;
  bool dense_;
};

/// Returns the plan of a named pattern (pattern/registry.h), from a cache of the most recent ones.
///   Units     window in tiles, granularity in tokens
///   Threads   safe
///   Errors    those of Plan and pattern::make_pattern
std::shared_ptr<const Plan> plan_for(const pattern::Grid& grid, const pattern::Grid& tile,
                                     const pattern::Grid& granularity, const std::string& pattern,
                                     const pattern::Grid& window);

}  // namespace fpsa::ops
