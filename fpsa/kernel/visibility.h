// From a BlockMask over tiles to the blocks of query rows and ranges of keys that kernels walk.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "fpsa/kernel/attention.h"
#include "fpsa/pattern/mask.h"

namespace fpsa::kernel {

/// Every query block of one head, in order; the blocks point into the ranges.
class Visibility {
 public:
  /// Neighbouring key tiles join into one range, neighbouring query tiles that see the same keys into one run of
  /// rows, and runs are cut into blocks of nearly equal size. So a dense mask costs what no mask costs.
  ///   Shapes    query_tile_begin [mask.rows + 1], key_tile_begin [mask.cols + 1]: first position of each tile
  Visibility(const pattern::BlockMask& mask, int64_t head, std::span<const int32_t> query_tile_begin,
             std::span<const int32_t> key_tile_begin);
  /// The same with the sides exchanged, for the backward: rows are keys, ranges are of the queries that see them.
  static Visibility transposed(const pattern::BlockMask& mask, int64_t head, std::span<const int32_t> query_tile_begin,
                               std::span<const int32_t> key_tile_begin);
  /// Every query sees every key.
  static Visibility dense(int64_t queries, int64_t keys);

  // Blocks hold pointers into ranges_: moving keeps them valid, copying would not.
  Visibility(Visibility&&) = default;
  Visibility& operator=(Visibility&&) = default;
  Visibility(const Visibility&) = delete;
  Visibility& operator=(const Visibility&) = delete;

  std::span<const QueryBlock> blocks() const { return blocks_; }

 private:
  Visibility() = default;
  void add_run(int32_t begin, int32_t end, int64_t first_range, int64_t range_count);

  std::vector<KeyRange> ranges_;
  std::vector<QueryBlock> blocks_;
};

}  // namespace fpsa::kernel
