#include "fpsa/kernel/visibility.h"

#include <gtest/gtest.h>

#include "fpsa/pattern/order.h"

namespace fpsa::kernel {
namespace {

using pattern::Grid;

TEST(Visibility, BlocksSeeExactlyTheTilesOfTheMask) {
  for (const auto& [grid, tile, window] : {std::tuple{Grid{9, 16, 16}, Grid{3, 4, 4}, Grid{3, 2, 2}},
                                           {Grid{5, 7, 9}, Grid{2, 3, 4}, Grid{1, 2, 2}},
                                           {Grid{1, 1, 1}, Grid{6, 8, 8}, Grid{1, 1, 1}},
                                           {Grid{7, 5, 30}, Grid{6, 8, 8}, Grid{2, 1, 3}}}) {
    const pattern::TileOrder order(grid, tile);
    const auto mask = pattern::sliding_tile(grid, tile, window);
    const Visibility visibility(mask, 0, order.tile_begin(), order.tile_begin());
    int32_t at = 0;
    int64_t pairs = 0;
    for (const QueryBlock& block : visibility.blocks()) {
      EXPECT_EQ(block.begin, at);
      EXPECT_GT(block.end, block.begin);
      EXPECT_LE(block.end - block.begin, kMaxQueryRows);
      at = block.end;
      int32_t previous = -1;
      for (int32_t r = 0; r < block.range_count; ++r) {
        EXPECT_GT(block.ranges[r].begin, previous);  // joined where they touch
        EXPECT_GT(block.ranges[r].end, block.ranges[r].begin);
        previous = block.ranges[r].end;
        pairs += int64_t{block.end - block.begin} * (block.ranges[r].end - block.ranges[r].begin);
      }
    }
    EXPECT_EQ(at, order.tokens());
    EXPECT_EQ(pairs, pattern::visible_pairs(mask, order));
  }
}

TEST(Visibility, ADenseMaskIsOneRangeAndNoShortBlocks) {
  const Grid grid{9, 16, 16}, tile{3, 4, 4};
  const pattern::TileOrder order(grid, tile);
  const Visibility masked(pattern::dense(grid, tile), 0, order.tile_begin(), order.tile_begin());
  const Visibility dense = Visibility::dense(2304, 2304);
  ASSERT_EQ(masked.blocks().size(), dense.blocks().size());
  EXPECT_EQ(dense.blocks().size(), 24u);
  for (size_t i = 0; i < dense.blocks().size(); ++i) {
    EXPECT_EQ(masked.blocks()[i].begin, dense.blocks()[i].begin);
    EXPECT_EQ(masked.blocks()[i].end, dense.blocks()[i].end);
    EXPECT_EQ(masked.blocks()[i].range_count, 1);
  }
}

TEST(Visibility, NoQueriesOrNoKeysIsLegal) {
  EXPECT_TRUE(Visibility::dense(0, 5).blocks().empty());
  const Visibility no_keys = Visibility::dense(5, 0);
  ASSERT_EQ(no_keys.blocks().size(), 1u);
  EXPECT_EQ(no_keys.blocks()[0].range_count, 0);
}

}  // namespace
}  // namespace fpsa::kernel
