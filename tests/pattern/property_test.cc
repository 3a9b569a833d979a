// Properties that every registered pattern has.
#include <gtest/gtest.h>

#include <algorithm>
#include <ctime>
#include <ostream>

#include "fpsa/base/check.h"
#include "fpsa/pattern/registry.h"
#include "tests/pattern/grid_cases.h"

namespace fpsa::pattern {

void PrintTo(const PatternEntry& entry, std::ostream* out) {
  *out << entry.name;
}

namespace {

// Parameter sets that each pattern is tried with, from sparse to full.
std::vector<PatternParams> parameters() {
  return {{{1, 1, 1}, {0.2, 8}}, {{2, 3, 1}, {0.5, 32}}, {{3, 2, 2}, {0.2, 128}}, {kFullWindow, {1.0, 1 << 30}}};
}

class EveryPattern : public testing::TestWithParam<PatternEntry> {};

TEST_P(EveryPattern, GivesAValidSharedMaskInWhichEveryTileSeesItself) {
  std::vector<cases::Case> list = cases::all(40, 15);
  for (const cases::Case& c : cases::real())
    list.push_back(c);
  for (const cases::Case& c : list) {
    for (const PatternParams& params : parameters()) {
      const BlockMask mask = GetParam().make(c.grid, c.tile, params);
      ASSERT_NO_THROW(check_mask(mask)) << cases::label(c);
      ASSERT_TRUE(mask.shared);
      ASSERT_EQ(mask.rows, tiles_per_axis(c.grid, c.tile).volume()) << cases::label(c);
      ASSERT_EQ(mask.cols, mask.rows);
      for (int64_t r = 0; r < mask.rows; ++r) {
        ASSERT_TRUE(std::ranges::binary_search(mask.visible(0, r), static_cast<int32_t>(r)))
            << cases::label(c) << " row " << r;
      }
    }
  }
}

TEST_P(EveryPattern, CountsPairsAsATokenWalkDoes) {
  for (const cases::Case& c : cases::all(20, 7)) {
    if (c.grid.volume() > 800) continue;
    for (const PatternParams& params : parameters()) {
      const BlockMask mask = GetParam().make(c.grid, c.tile, params);
      const TileOrder order(c.grid, c.tile);
      std::vector<int64_t> tile_of(static_cast<size_t>(order.tokens()));
      for (int64_t tile = 0; tile < order.tile_count(); ++tile) {
        std::fill(tile_of.begin() + order.tile_begin(tile), tile_of.begin() + order.tile_begin(tile + 1), tile);
      }
      int64_t pairs = 0;
      for (const int64_t q : tile_of) {
        for (const int64_t k : tile_of) {
          pairs += std::ranges::binary_search(mask.visible(0, q), static_cast<int32_t>(k));
        }
      }
      ASSERT_EQ(visible_pairs(mask, order), pairs) << cases::label(c);
      ASSERT_GT(density(mask, order), 0.0);
      ASSERT_LE(density(mask, order), 1.0);
    }
  }
}

TEST_P(EveryPattern, IsDenseAtItsFullSetting) {
  for (const cases::Case& c : cases::all(20, 12)) {
    // Radial never drops neighbouring frames; deeper grids are full when the band covers a frame of its distance.
    const Grid shallow = {std::min<int64_t>(c.grid.t, 2), c.grid.y, c.grid.x};
    EXPECT_EQ(GetParam().make(shallow, c.tile, {kFullWindow, {1.0, 1}}), dense(shallow, c.tile)) << cases::label(c);
  }
}

TEST_P(EveryPattern, OneTileIsOneVisiblePair) {
  for (const Grid grid : {Grid{1, 1, 1}, Grid{2, 3, 5}, Grid{6, 8, 8}}) {
    const BlockMask mask = GetParam().make(grid, {6, 8, 8}, {{1, 1, 1}, {}});
    EXPECT_EQ(mask.col, std::vector<int32_t>{0});
    EXPECT_EQ(density(mask, TileOrder(grid, {6, 8, 8})), 1.0);
  }
}

TEST_P(EveryPattern, IsTheSameEveryTime) {
  const PatternParams params{{3, 2, 2}, {}};
  EXPECT_EQ(GetParam().make({21, 30, 52}, {6, 8, 8}, params), GetParam().make({21, 30, 52}, {6, 8, 8}, params));
}

// Processor time, so that a busy machine does not count. One second is far above what a Release build needs (under
// 10 ms) and below what a quadratic walk over tokens takes.
TEST_P(EveryPattern, CostsLittleOnARealGrid) {
  const std::clock_t start = std::clock();
  const BlockMask mask = GetParam().make({21, 45, 80}, {6, 8, 8}, {{6, 6, 1}, {}});
  const TileOrder order({21, 45, 80}, {6, 8, 8});
  const double d = density(mask, order);
  const double ms = 1e3 * static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  RecordProperty("milliseconds", std::to_string(ms));
  RecordProperty("density", std::to_string(d));
#ifdef NDEBUG
  EXPECT_LT(ms, 1000.0);
#endif
}

INSTANTIATE_TEST_SUITE_P(Registry, EveryPattern, testing::ValuesIn(patterns().begin(), patterns().end()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(PatternRegistry, FindsPatternsByNameAndListsThemWhenTheNameIsUnknown) {
  EXPECT_TRUE(is_pattern("sta"));
  EXPECT_FALSE(is_pattern("STA"));
  EXPECT_EQ(make_pattern("dense", {3, 4, 5}, {2, 2, 2}, {}), dense({3, 4, 5}, {2, 2, 2}));
  try {
    make_pattern("spiral", {3, 4, 5}, {2, 2, 2}, {});
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "pattern 'spiral': expected one of dense, sta, radial");
  }
}

}  // namespace
}  // namespace fpsa::pattern
