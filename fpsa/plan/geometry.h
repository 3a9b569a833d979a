// What attention needs to know about a grid, a tile, a granularity and a mask, computed once and shared.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "fpsa/kernel/visibility.h"
#include "fpsa/pattern/mask.h"
#include "fpsa/pattern/order.h"
#include "fpsa/plan/derived.h"

namespace fpsa::plan {

/// Token order, scale groups and blocks; the number of heads, their width and their dtype are not part of it.
/// Constant to its users, so any number of threads and plans may use one.
class Geometry {
 public:
  /// Errors    as pattern::TileOrder and pattern::check_mask; a mask whose tile counts are not those of the grid
  Geometry(const pattern::Grid& grid, const pattern::Grid& tile, const pattern::Grid& granularity,
           pattern::BlockMask mask);

  const pattern::TileOrder& order() const { return order_; }
  const pattern::TokenGroups& groups() const { return groups_; }
  /// The runs of one group, rising: positions [run_begin[r], run_begin[r + 1]) of groups().
  std::span<const int32_t> runs_of(int64_t group) const {
    const auto begin = static_cast<size_t>(group_begin_[static_cast<size_t>(group)]);
    return std::span(group_runs_)
        .subspan(begin, static_cast<size_t>(group_begin_[static_cast<size_t>(group) + 1]) - begin);
  }
  const pattern::BlockMask& mask() const { return mask_; }
  int64_t tokens() const { return order_.tokens(); }
  double density() const { return density_; }
  bool dense() const { return dense_; }  // every query sees every key, in every head
  const kernel::Visibility& visibility(int64_t head) const { return visibility_[stored(head)]; }
  /// The blocks of visibility(head), the costly ones first.
  std::span<const kernel::QueryBlock> work(int64_t head) const { return work_[stored(head)]; }
  /// The same pairs from the side of the keys, for the backward: blocks of keys with the queries that see them. Made
  /// when first asked for.
  const kernel::Visibility& transposed(int64_t head) const;

  /// What users derive from the geometry, such as a copy on a device.
  const Derived& derived() const { return derived_; }

 private:
  void sort_runs();
  size_t stored(int64_t head) const { return visibility_.size() == 1 ? 0 : static_cast<size_t>(head); }

  pattern::TileOrder order_;
  pattern::TokenGroups groups_;
  std::vector<int32_t> group_begin_, group_runs_;  // runs by group
  pattern::BlockMask mask_;
  std::vector<kernel::Visibility> visibility_;  // one when the mask is shared
  std::vector<std::vector<kernel::QueryBlock>> work_;
  mutable std::once_flag transposed_once_;
  mutable std::vector<kernel::Visibility> transposed_;
  Derived derived_;
  double density_;
  bool dense_;
};

}  // namespace fpsa::plan
