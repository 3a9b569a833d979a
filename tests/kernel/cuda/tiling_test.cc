// Index arithmetic of the sm_90a kernels: slots, value order, work lists, tile choice.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "fpsa/base/check.h"
#include "fpsa/kernel/cuda/tiling/attention_bwd_tiling.h"
#include "fpsa/kernel/cuda/tiling/attention_tiling.h"
#include "fpsa/kernel/cuda/tiling/pack.h"
#include "fpsa/kernel/cuda/tiling/work_list.h"

namespace fpsa::kernel::cuda {
namespace {

using pattern::BlockMask;
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

// Small grids under several windows: visits the order, the layout, a mask that heads share, and one of a head with that
// mask and a dense one.
template <class Visit>
void for_small_plans(const Visit& visit) {
  for (const Grid& grid : grids()) {
    if (grid.volume() > 40000) continue;
    const TileOrder order(grid, {3, 4, 8});
    const SegmentLayout layout(order.tile_begin());
    for (const Grid& window : {Grid{2, 1, 3}, Grid{6, 6, 1}, pattern::kFullWindow}) {
      const auto sliding = pattern::sliding_tile(grid, {3, 4, 8}, window);
      visit(order, layout, sliding, pattern::per_head({sliding, pattern::dense(grid, {3, 4, 8})}));
    }
  }
}

// What a work list lets each query see, against the mask.
TEST(WorkList, EveryRowSeesTheTokensOfItsMaskOnce) {
  for_small_plans([](const TileOrder& order, const SegmentLayout& layout, const BlockMask&, const BlockMask& mask) {
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
  });
}

// The pairs of segments that a list computes, by head.
std::set<std::tuple<int32_t, int32_t, int32_t>> pairs_of(const WorkList& work, bool rows_are_keys) {
  std::set<std::tuple<int32_t, int32_t, int32_t>> pairs;
  for (const WorkItem& item : work.items)
    for (const int32_t row : item.query_segment)
      for (int32_t i = 0; row >= 0 && i < item.entries; ++i) {
        const int32_t entry = work.entries[static_cast<size_t>(item.first_entry + i)];
        if (entry == 0) continue;
        const int32_t column = entry_segment(entry);
        const bool added = pairs.emplace(item.head, rows_are_keys ? column : row, rows_are_keys ? row : column).second;
        EXPECT_TRUE(added) << "a pair twice: row " << row << " column " << column;
      }
  return pairs;
}

TEST(WorkList, TheExchangedMaskGivesTheSamePairs) {
  for (const Grid& grid : grids()) {
    if (grid.volume() > 10000) continue;
    // Queries and keys of different lengths, so that exchanging only one of the layouts would not go unnoticed.
    const Grid keys_grid{grid.t, grid.y, grid.x + 9};
    const SegmentLayout queries(TileOrder(grid, {3, 4, 8}).tile_begin());
    const SegmentLayout keys(TileOrder(keys_grid, {3, 4, 8}).tile_begin());
    const int64_t rows = pattern::tiles_per_axis(grid, {3, 4, 8}).volume();
    const int64_t cols = pattern::tiles_per_axis(keys_grid, {3, 4, 8}).volume();
    for (const int64_t heads : {1, 3}) {
      std::vector<uint8_t> visible(static_cast<size_t>(heads * rows * cols));
      for (size_t i = 0; i < visible.size(); ++i)
        visible[i] = i * 2654435761u >> 7 & 1;
      const auto mask = pattern::from_matrix(visible, heads, rows, cols), back = exchanged(mask);
      EXPECT_EQ(back.heads(), heads);
      EXPECT_EQ(exchanged(back), mask);
      const WorkList of_queries(mask, queries, keys), of_keys(back, keys, queries);
      EXPECT_EQ(of_queries.shared, of_keys.shared);
      EXPECT_EQ(pairs_of(of_keys, true), pairs_of(of_queries, false));
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
      const auto back = exchanged(mask);
      EXPECT_LE(waste(WorkList(back, layout, layout), back, layout, layout), 0.05) << "with rows of keys";
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

TEST(WorkList, PairsComeFirstAndSeeTheSameKeys) {
  int64_t odd = 0;
  for_small_plans([&](const TileOrder&, const SegmentLayout& layout, const BlockMask& shared,
                      const BlockMask& by_head) {
    for (const auto& mask : {shared, by_head}) {
      const WorkList work(mask, layout, layout);
      ASSERT_EQ(work.paired % 2, 0);
      std::map<std::tuple<int32_t, int32_t, int32_t>, int> left_over;  // by head and list
      for (size_t i = 0; i < work.items.size(); ++i) {
        const WorkItem& item = work.items[i];
        const bool paired = static_cast<int64_t>(i) < work.paired;
        const WorkItem& other = work.items[paired ? i ^ 1 : i];
        EXPECT_EQ(std::tie(item.head, item.first_entry, item.entries),
                  std::tie(other.head, other.first_entry, other.entries));
        // An empty list begins where the next one does.
        EXPECT_TRUE(paired || ++left_over[std::tuple(item.head, item.first_entry, item.entries)] == 1)
            << "a pair left over";
        odd += !paired;
      }
      EXPECT_TRUE(std::ranges::is_sorted(work.items.begin(), work.items.begin() + work.paired, {}, &WorkItem::head));
      EXPECT_TRUE(std::ranges::is_sorted(work.items.begin() + work.paired, work.items.end(), {}, &WorkItem::head));
    }
  });
  EXPECT_GT(odd, 0);
}

TEST(WorkList, EveryPlaceComesOnceWhenPairsComeFirst) {
  std::vector<WorkItem> list(7);
  for (int i = 0; i < 7; ++i)
    list[static_cast<size_t>(i)].head = i / 3;
  for (const int items : {1, 2, 5, 7})
    for (int paired = 0; paired <= items; paired += 2)
      for (const bool shared : {false, true}) {
        const int batch = 3, heads = 4, total = items * batch * (shared ? heads : 1);
        std::set<std::tuple<int32_t, int32_t, int32_t>> seen;
        for (int index = 0; index < total; ++index) {
          const Place place = place_of_pairs_first(index, items, paired, batch, heads, shared, list.data());
          EXPECT_TRUE(seen.emplace(place.batch, place.head, place.item).second) << "twice: " << index;
          EXPECT_TRUE(place.batch < batch && place.head < heads && place.item < items) << index;
          EXPECT_TRUE(shared || place.head == list[static_cast<size_t>(place.item)].head);
          const bool in_pair = index < paired * batch * (shared ? heads : 1);
          EXPECT_EQ(place.item < paired, in_pair);
          if (!in_pair) continue;
          const Place other = place_of_pairs_first(index ^ 1, items, paired, batch, heads, shared, list.data());
          EXPECT_EQ(other.batch, place.batch);
          EXPECT_EQ(other.item, place.item ^ 1);
          EXPECT_TRUE(!shared || other.head == place.head);
        }
      }
}

TEST(AttentionTiling, ClustersAreForListsWithManyPairs) {
  EXPECT_EQ(choose_cluster(1, 0), 1);
  EXPECT_EQ(choose_cluster(2, 2), 2);
  EXPECT_EQ(choose_cluster(591, 590), 2);
  EXPECT_EQ(choose_cluster(16, 4), 2);
  EXPECT_EQ(choose_cluster(17, 4), 1);
  EXPECT_EQ(choose_cluster(0, 0), 1);
  EXPECT_EQ(choose_coded_cluster(128, false, false, 2, 2), 2);
  EXPECT_EQ(choose_coded_cluster(128, false, false, 17, 4), 1);
  EXPECT_EQ(choose_coded_cluster(64, false, false, 2, 2), 1);
  EXPECT_EQ(choose_coded_cluster(128, /*column_scales=*/true, false, 2, 2), 1);
  EXPECT_EQ(choose_coded_cluster(128, false, /*exact=*/true, 2, 2), 1);
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

TEST(AttentionBwdTiling, EveryChoiceFitsTheMultiprocessor) {
  for (const int dim : {64, 128})
    for (const bool of_keys : {false, true})
      for (const bool coded : {false, true}) {
        const AttentionBwdTiling tiling = choose_bwd_tiling(dim, of_keys, coded);
        const BwdSharedMap map = bwd_shared_map(tiling);
        EXPECT_LE(map.bytes, kMaxSharedBytes);
        // Every box of a copy begins a pattern of its swizzle, every array of scalars 16 bytes.
        for (const uint32_t at : {map.rows, map.first, map.second, map.codes, map.row_bytes, map.row_first_bytes,
                                  map.first_bytes, map.second_bytes, map.code_bytes})
          EXPECT_EQ(at % 1024, 0u);
        EXPECT_EQ(map.scalars % 16, 0u);
        EXPECT_EQ(map.scalar_bytes % 16, 0u);
        EXPECT_EQ(map.barriers % 8, 0u);
        // Accumulators, and what is left of P and dS as operands, leave 32 registers for all else.
        const int scores = tiling.columns / 2, gradients = dim / 2 * (of_keys ? 2 : 1);
        EXPECT_LE(gradients + 2 * scores + (of_keys ? scores / 2 : 0), kConsumerRegisters - 32);
      }
}

}  // namespace
}  // namespace fpsa::kernel::cuda
