// Index arithmetic of the sm_90a kernels: slots, value order, work lists, tile choice.
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "fpsa/base/check.h"
#include "fpsa/kernel/cuda/tiling/attention_tiling.h"
#include "fpsa/kernel/cuda/tiling/pack.h"
#include "fpsa/kernel/cuda/tiling/work_list.h"

namespace fpsa::kernel::cuda {
namespace {

using pattern::Grid;
using pattern::TileOrder;

const std::vector<Grid>& grids() {
  static const std::vector<Grid> all = {{1, 1, 1},  {3, 7, 18}, {21, 30, 52}, {21, 45, 80},
                                        {5, 9, 11}, {6, 8, 8},  {2, 17, 3}};
  return all;
}

TEST(ValuePlace, PutsAThreadsScoresWhereItsOperandBytesAre) {
  // The document's tables: d_i of a thread is column i / 4 * 8 + 2 t + (i & 1); byte i of its A fragment of one row is
  // column 4 t + (i & 3) of the first half for i < 4, of the second for the others.
  std::set<int> places;
  for (int t = 0; t < 4; ++t) {
    std::set<int> scores, bytes;
    for (int j = 0; j < 4; ++j)
      for (int e = 0; e < 2; ++e)
        scores.insert(value_place(8 * j + 2 * t + e));
    for (int i = 0; i < 8; ++i)
      bytes.insert(4 * t + (i & 3) + (i < 4 ? 0 : 16));
    EXPECT_EQ(scores, bytes) << "thread " << t;
    places.insert(scores.begin(), scores.end());
  }
  EXPECT_EQ(places.size(), 32u);
}

TEST(SegmentLayout, EveryTokenHasOneSlotAndTilesBeginSegments) {
  for (const Grid& grid : grids()) {
    const TileOrder order(grid, {6, 8, 8});
    const SegmentLayout layout(order.tile_begin());
    std::vector<int> seen(static_cast<size_t>(order.tokens()));
    const auto positions = layout.position_of_slot();
    ASSERT_EQ(static_cast<int64_t>(positions.size()), layout.slots());
    for (int64_t tile = 0; tile < order.tile_count(); ++tile) {
      int32_t position = order.tile_begin(tile);
      for (int32_t segment = layout.begin(tile); segment < layout.begin(tile + 1); ++segment) {
        for (int i = 0; i < kSegment; ++i) {
          const int32_t at = positions[static_cast<size_t>(segment * kSegment + i)];
          EXPECT_EQ(at, i < layout.valid(segment) ? position : -1);
          if (at >= 0) ++seen[static_cast<size_t>(at)], ++position;
        }
      }
      EXPECT_EQ(position, order.tile_begin(tile + 1));
    }
    for (const int count : seen)
      ASSERT_EQ(count, 1);
  }
}

TEST(SegmentLayout, AGranularityOfWholeTilesNeedsNoColumnScales) {
  for (const Grid& grid : grids()) {
    const auto needs = [&](const Grid& granularity) {
      const TileOrder order(grid, {6, 8, 8}, granularity);
      return needs_column_scales(SegmentLayout(order.tile_begin()), pattern::token_groups(order).of_token);
    };
    EXPECT_FALSE(needs({6, 8, 8}));
    EXPECT_FALSE(needs({24, 32, 32}));
    EXPECT_EQ(needs({1, 1, 1}), grid.volume() > 1) << to_string(grid);
  }
}

// What a work list lets each query see, against the mask.
TEST(WorkList, EveryRowSeesTheTokensOfItsMaskOnce) {
  for (const Grid& grid : grids()) {
    if (grid.volume() > 40000) continue;
    for (const Grid& window : {Grid{2, 1, 3}, Grid{6, 6, 1}, pattern::kFullWindow}) {
      const TileOrder order(grid, {3, 4, 8});
      const SegmentLayout layout(order.tile_begin());
      const auto one = pattern::sliding_tile(grid, {3, 4, 8}, window);
      const auto mask = pattern::per_head({one, pattern::dense(grid, {3, 4, 8})});
      const WorkList work(mask, layout, layout);
      EXPECT_FALSE(work.shared);
      std::map<std::pair<int32_t, int32_t>, int> items_of;  // by head and segment
      std::vector<int64_t> tile_of(static_cast<size_t>(layout.segments()));
      for (int64_t tile = 0; tile < order.tile_count(); ++tile)
        for (int32_t s = layout.begin(tile); s < layout.begin(tile + 1); ++s)
          tile_of[static_cast<size_t>(s)] = tile;
      for (const WorkItem& item : work.items) {
        ASSERT_EQ(item.entries % 4, 0);
        std::vector<int32_t> tiles;
        int64_t valid = 0;
        bool ended = false;
        for (int32_t i = 0; i < item.entries; ++i) {
          const int32_t entry = work.entries[static_cast<size_t>(item.first_entry + i)];
          ended = ended || entry == 0;
          EXPECT_EQ(entry == 0, ended) << "an end inside a list";
          if (entry == 0) continue;
          EXPECT_EQ(entry_valid(entry), layout.valid(entry_segment(entry)));
          EXPECT_EQ(entry_full(entry), entry_valid(entry) == 32);
          valid += entry_valid(entry);
          const auto tile = static_cast<int32_t>(tile_of[static_cast<size_t>(entry_segment(entry))]);
          if (tiles.empty() || tiles.back() != tile) tiles.push_back(tile);
        }
        bool gap = false;
        for (const int32_t segment : item.query_segment) {
          gap = gap || segment < 0;
          ASSERT_EQ(segment < 0, gap) << "a gap before the item's last segment";
          if (segment < 0) continue;
          ++items_of[{item.head, segment}];
          const int64_t row = tile_of[static_cast<size_t>(segment)];
          EXPECT_TRUE(std::ranges::equal(tiles, mask.visible(item.head, row)));
          int64_t tokens = 0;
          for (const int32_t tile : mask.visible(item.head, row))
            tokens += order.tile_tokens(tile);
          EXPECT_EQ(valid, tokens);
        }
      }
      EXPECT_EQ(static_cast<int64_t>(items_of.size()), 2 * layout.segments());
      for (const auto& [key, count] : items_of)
        EXPECT_EQ(count, 1);
    }
  }
}

TEST(WorkList, WastesAtMostFivePercentOnTheGridsOfWan) {
  for (const Grid& grid : {Grid{21, 45, 80}, Grid{21, 30, 52}}) {
    const TileOrder order(grid, {6, 8, 8});
    const SegmentLayout layout(order.tile_begin());
    for (const Grid& window : {pattern::kFullWindow, Grid{6, 6, 1}}) {
      const auto mask = pattern::sliding_tile(grid, {6, 8, 8}, window);
      const double wasted = waste(WorkList(mask, layout, layout), mask, layout, layout);
      EXPECT_GE(wasted, 0);
      EXPECT_LE(wasted, 0.05) << to_string(grid) << " window " << to_string(window);
    }
  }
}

TEST(WorkList, PlacesCountItemsThenHeadsThenBatches) {
  const std::vector<WorkItem> list = {{{}, 0, 0, 0, 0}, {{}, 0, 0, 0, 0}, {{}, 0, 0, 1, 0}};
  int64_t index = 0;
  for (int batch = 0; batch < 2; ++batch)
    for (int head = 0; head < 5; ++head)
      for (int item = 0; item < 3; ++item) {
        const Place place = place_of(index++, 3, 5, true, list.data());
        EXPECT_EQ(std::tie(place.batch, place.head, place.item), std::tie(batch, head, item));
      }
  const Place place = place_of(5, 3, 2, false, list.data());
  EXPECT_EQ(std::tuple(place.batch, place.head, place.item), std::tuple(1, 1, 2));
}

TEST(AttentionTiling, EveryChoiceFitsTheMultiprocessor) {
  for (const int dim : {64, 128})
    for (const bool columns : {false, true})
      for (const bool exact : {false, true}) {
        const AttentionTiling tiling = choose_tiling(dim, columns, exact);
        const SharedMap map = shared_map(tiling);
        EXPECT_LE(map.bytes, kMaxSharedBytes);
        EXPECT_EQ(map.keys % 1024, 0u);
        EXPECT_EQ(map.values % 1024, 0u);
        EXPECT_EQ(map.key_bytes % 1024, 0u);
        EXPECT_EQ(map.scales % 128, 0u);
        EXPECT_EQ(map.staging % 16, 0u);
        EXPECT_EQ(map.barriers % 8, 0u);
        // Parts follow each other without overlap.
        EXPECT_GE(map.keys, map.queries + kConsumers * map.query_bytes);
        EXPECT_GE(map.values, map.keys + static_cast<uint32_t>(tiling.stages) * map.key_bytes);
        EXPECT_GE(map.staging, map.values + static_cast<uint32_t>(tiling.stages) * map.value_bytes);
        EXPECT_GE(map.scales, map.staging + kConsumers * map.staging_bytes);
        EXPECT_GE(map.barriers, map.scales + static_cast<uint32_t>(tiling.stages) * map.scale_bytes);
        EXPECT_EQ(tiling.keys % 64, 0);
      }
}

}  // namespace
}  // namespace fpsa::kernel::cuda
