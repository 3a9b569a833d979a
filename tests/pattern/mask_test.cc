#include "fpsa/pattern/mask.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "fpsa/base/check.h"
#include "tests/error_of.h"
#include "tests/pattern/grid_cases.h"

namespace fpsa::pattern {
namespace {

// The window rule on one axis, in the words of its definition.
bool sees(int64_t q, int64_t k, int64_t n, int64_t w) {
  if (w >= n) return true;
  int64_t start = q - w / 2;
  if (start > n - w) start = n - w;
  if (start < 0) start = 0;
  return start <= k && k < start + w;
}

// Visible token pairs counted one by one.
int64_t count_pairs(const cases::Case& c, const Grid& window) {
  const Grid n = tiles_per_axis(c.grid, c.tile);
  int64_t pairs = 0;
  for (int64_t q = 0; q < c.grid.volume(); ++q) {
    for (int64_t k = 0; k < c.grid.volume(); ++k) {
      const auto tile_at = [&](int64_t raster) {
        return Grid{raster / (c.grid.y * c.grid.x) / c.tile.t, raster / c.grid.x % c.grid.y / c.tile.y,
                    raster % c.grid.x / c.tile.x};
      };
      const Grid a = tile_at(q), b = tile_at(k);
      pairs += sees(a.t, b.t, n.t, window.t) && sees(a.y, b.y, n.y, window.y) && sees(a.x, b.x, n.x, window.x);
    }
  }
  return pairs;
}

TEST(SlidingTile, MatchesTheDefinitionTokenPairByTokenPair) {
  std::mt19937 random(cases::kSeed);
  for (const cases::Case& c : cases::all(40, 7)) {
    if (c.grid.volume() > 1200) continue;
    const Grid window = {static_cast<int64_t>(1 + random() % 5), static_cast<int64_t>(1 + random() % 5),
                         static_cast<int64_t>(1 + random() % 5)};
    const BlockMask mask = sliding_tile(c.grid, c.tile, window);
    const TileOrder order(c.grid, c.tile);
    const int64_t expected = count_pairs(c, window);
    ASSERT_EQ(visible_pairs(mask, order), expected) << cases::label(c) << " window " << to_string(window);
    const double tokens = static_cast<double>(order.tokens());
    ASSERT_DOUBLE_EQ(density(mask, order), static_cast<double>(expected) / (tokens * tokens)) << cases::label(c);
  }
}

TEST(SlidingTile, EveryRowSeesTheSameNumberOfTilesAtBordersToo) {
  std::mt19937 random(cases::kSeed);
  std::vector<cases::Case> list = cases::all(60, 15);
  for (const cases::Case& c : cases::real())
    list.push_back(c);
  for (const cases::Case& c : list) {
    const Grid n = tiles_per_axis(c.grid, c.tile);
    for (int trial = 0; trial < 4; ++trial) {
      const Grid w = {static_cast<int64_t>(1 + random() % 7), static_cast<int64_t>(1 + random() % 7),
                      static_cast<int64_t>(1 + random() % 7)};
      const BlockMask mask = sliding_tile(c.grid, c.tile, w);
      const size_t expected = static_cast<size_t>(std::min(w.t, n.t) * std::min(w.y, n.y) * std::min(w.x, n.x));
      for (int64_t r = 0; r < mask.rows; ++r) {
        const auto visible = mask.visible(0, r);
        ASSERT_EQ(visible.size(), expected) << cases::label(c) << " window " << to_string(w) << " row " << r;
        ASSERT_TRUE(std::ranges::binary_search(visible, static_cast<int32_t>(r))) << "a tile sees itself";
      }
    }
  }
}

TEST(SlidingTile, WindowsAtTheBordersAreTheOnesOfTheDefinition) {
  // One axis of 5 tiles: even windows keep exactly w tiles and lean to the past.
  const auto row = [](int64_t w, int64_t q) {
    const BlockMask mask = sliding_tile({1, 1, 5}, {1, 1, 1}, {1, 1, w});
    const auto visible = mask.visible(0, q);
    return std::vector<int32_t>(visible.begin(), visible.end());
  };
  using V = std::vector<int32_t>;
  EXPECT_EQ(row(1, 3), (V{3}));
  EXPECT_EQ(row(2, 0), (V{0, 1}));
  EXPECT_EQ(row(2, 2), (V{1, 2}));
  EXPECT_EQ(row(2, 4), (V{3, 4}));
  EXPECT_EQ(row(3, 0), (V{0, 1, 2}));
  EXPECT_EQ(row(3, 4), (V{2, 3, 4}));
  EXPECT_EQ(row(4, 2), (V{0, 1, 2, 3}));
  EXPECT_EQ(row(4, 3), (V{1, 2, 3, 4}));
  EXPECT_EQ(row(5, 0), (V{0, 1, 2, 3, 4}));
  EXPECT_EQ(row(6, 4), (V{0, 1, 2, 3, 4}));
}

TEST(SlidingTile, AFullWindowEqualsDense) {
  for (const cases::Case& c : cases::all(30, 12)) {
    const Grid n = tiles_per_axis(c.grid, c.tile);
    const BlockMask all = dense(c.grid, c.tile);
    EXPECT_EQ(sliding_tile(c.grid, c.tile, n), all) << cases::label(c);
    EXPECT_EQ(sliding_tile(c.grid, c.tile, kFullWindow), all) << cases::label(c);
    EXPECT_EQ(visible_pairs(all, TileOrder(c.grid, c.tile)), c.grid.volume() * c.grid.volume());
  }
}

TEST(SlidingTile, RealGridsHaveTheDensityOfTheirWindow) {
  // 21x45x80 in tiles of 6x8x8: the 10 tile columns are whole, so one of ten columns is exactly 10%.
  const Grid tile = {6, 8, 8};
  EXPECT_DOUBLE_EQ(density(sliding_tile({21, 45, 80}, tile, {6, 6, 1}), TileOrder({21, 45, 80}, tile)), 0.1);
  // 21x30x52: six columns of 8 and one of 4, so (6*8*8 + 4*4) / 52^2.
  EXPECT_DOUBLE_EQ(density(sliding_tile({21, 30, 52}, tile, {6, 6, 1}), TileOrder({21, 30, 52}, tile)), 400.0 / 2704.0);
}

TEST(SlidingTile, RefusesAWindowBelowOneAndMasksTooLargeToHold) {
  EXPECT_EQ(error_of([] {
              sliding_tile({21, 45, 80}, {6, 8, 8}, {0, 6, 1});
            }),
            "window t = 0: expected at least 1 tile; a value of 4 or more means all");
  EXPECT_EQ(error_of([] {
              dense({21, 45, 80}, {1, 1, 1});
            }),
            "mask of 75600 x 75600 tiles and 1 head(s): more than 134217728 visible tile pairs; use a larger tile");
}

TEST(AttentionFlops, IsFourTimesPairsTimesHeadDim) {
  const Grid grid = {21, 45, 80}, tile = {6, 8, 8};
  const TileOrder order(grid, tile);
  EXPECT_EQ(attention_flops(dense(grid, tile), order, 12, 128), int64_t{4} * 75600 * 75600 * 12 * 128);
  const BlockMask one = sliding_tile(grid, tile, {6, 6, 1}), all = dense(grid, tile);
  const BlockMask mixed = per_head({one, all});
  EXPECT_EQ(attention_flops(mixed, order, 2, 64), 4 * 64 * (visible_pairs(one, order) + visible_pairs(all, order)));
  EXPECT_EQ(error_of([&] { attention_flops(mixed, order, 3, 64); }),
            "attention_flops: the mask has 2 heads; expected 3");
  EXPECT_EQ(error_of([&] { attention_flops(all, order, int64_t{1} << 40, 128); }),
            "attention_flops: more than 2^63 - 1 operations");
}

TEST(Waste, IsZeroForBlocksOfOneAndSmallForRealBlocksOverTheDenseMask) {
  for (const cases::Case& c : cases::all(20, 12)) {
    const TileOrder order(c.grid, c.tile);
    EXPECT_EQ(waste(sliding_tile(c.grid, c.tile, {2, 3, 1}), order, {1, 1}), 0.0) << cases::label(c);
  }
  for (const cases::Case& c : cases::real()) {
    const TileOrder order(c.grid, c.tile);
    EXPECT_LE(waste(dense(c.grid, c.tile), order, {96, 64}), 0.02) << cases::label(c);
    // Blocks that stop at every tile pay for each remainder tile.
    EXPECT_GT(waste(dense(c.grid, c.tile), order, {96, 64, false}), 0.02) << cases::label(c);
  }
}

TEST(Waste, CountsPartialBlocksAtTheEndsOfRuns) {
  // 10 tokens in tiles of 4, 4, 2. Dense: one run of 10 rows and 10 columns, 12 x 12 executed in blocks of 3 x 4.
  const TileOrder order({1, 1, 10}, {1, 1, 4});
  EXPECT_DOUBLE_EQ(waste(dense({1, 1, 10}, {1, 1, 4}), order, {3, 4}), 12.0 * 12.0 / 100.0 - 1.0);
  // Per tile: rows 6 + 6 + 3, columns 4 + 4 + 4.
  EXPECT_DOUBLE_EQ(waste(dense({1, 1, 10}, {1, 1, 4}), order, {3, 4, false}), 15.0 * 12.0 / 100.0 - 1.0);
  // Diagonal: 6 x 4, 6 x 4, 3 x 4 executed for 16 + 16 + 4 visible.
  EXPECT_DOUBLE_EQ(waste(sliding_tile({1, 1, 10}, {1, 1, 4}, {1, 1, 1}), order, {3, 4}), 60.0 / 36.0 - 1.0);
  const BlockMask empty = from_matrix(std::vector<uint8_t>(9), 1, 3, 3);
  EXPECT_EQ(waste(empty, order, {3, 4}), 0.0);
  EXPECT_EQ(error_of([&] {
              waste(empty, order, {0, 4});
            }),
            "waste: expected a block of at least 1 x 1, received 0 x 4");
}

TEST(ExplicitMask, MatrixAndCsrAgreePerHeadAndEmptyRowsAreAllowed) {
  const std::vector<uint8_t> matrix = {1, 0, 1, 0, 0, 0, 0, 7, 0,   // head 0: {0,2}, {}, {1}
                                       0, 1, 0, 1, 1, 1, 0, 0, 1};  // head 1: {1}, {0,1,2}, {2}
  const BlockMask a = from_matrix(matrix, 2, 3, 3);
  const BlockMask b = from_csr(2, 3, 3, {0, 2, 2, 3, 4, 7, 8}, {0, 2, 1, 1, 0, 1, 2, 2});
  EXPECT_EQ(a, b);
  EXPECT_FALSE(a.shared);
  EXPECT_EQ(a.heads(), 2);
  EXPECT_TRUE(a.visible(0, 1).empty());
  EXPECT_EQ(a.visible(1, 1).size(), 3u);
  const TileOrder order({1, 1, 8}, {1, 1, 3});  // tiles of 3, 3, 2 tokens
  EXPECT_EQ(visible_pairs(a, order, 0), 3 * 5 + 2 * 3);
  EXPECT_EQ(visible_pairs(a, order, 1), 3 * 3 + 3 * 8 + 2 * 2);
  EXPECT_DOUBLE_EQ(density(a, order), (21.0 + 37.0) / 2.0 / 64.0);
}

TEST(ExplicitMask, ASingleHeadIsSharedByAll) {
  const BlockMask mask = from_matrix(std::vector<uint8_t>{1, 1, 0, 1}, 1, 2, 2);
  EXPECT_TRUE(mask.shared);
  EXPECT_EQ(mask.visible(17, 1).size(), 1u);
}

TEST(ExplicitMask, RandomMatricesSurviveTheTripThroughCsr) {
  std::mt19937 random(cases::kSeed);
  for (int trial = 0; trial < 50; ++trial) {
    const int64_t heads = 1 + random() % 3, rows = random() % 9, cols = random() % 9;
    std::vector<uint8_t> matrix(static_cast<size_t>(heads * rows * cols));
    for (uint8_t& m : matrix)
      m = random() % 3 == 0;
    const BlockMask mask = from_matrix(matrix, heads, rows, cols);
    check_mask(mask);
    std::vector<uint8_t> back(matrix.size());
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t r = 0; r < rows; ++r) {
        for (const int32_t c : mask.visible(h, r))
          back[static_cast<size_t>((h * rows + r) * cols + c)] = 1;
      }
    }
    ASSERT_EQ(back, matrix) << "seed " << cases::kSeed << " trial " << trial;
  }
}

TEST(ExplicitMask, EveryViolationIsNamed) {
  EXPECT_EQ(error_of([] { from_matrix(std::vector<uint8_t>(5), 1, 2, 3); }),
            "mask matrix: expected 1 x 2 x 3 = 6 entries, received 5");
  EXPECT_EQ(error_of([] { from_matrix({}, 0, 2, 3); }),
            "mask matrix: expected heads >= 1, rows >= 0 and cols >= 0, received 0, 2, 3");
  EXPECT_EQ(error_of([] { from_csr(1, -2, 3, {0}, {}); }),
            "mask csr: expected heads >= 1, rows >= 0 and cols >= 0, received 1, -2, 3");
  EXPECT_EQ(error_of([] {
              from_csr(1, 2, 3, {0, 1}, {0});
            }),
            "mask row_begin: expected heads*rows + 1 = 3 entries, received 2");
  EXPECT_EQ(error_of([] {
              from_csr(1, 2, 3, {0, 1, 3}, {0, 1});
            }),
            "mask row_begin: expected to run from 0 to the number of columns 2, received 0 to 3");
  EXPECT_EQ(error_of([] {
              from_csr(1, 2, 3, {0, 5, 2}, {0, 1});
            }),
            "mask head 0 row 0: row_begin 5 is past the number of columns 2");
  EXPECT_EQ(error_of([] {
              from_csr(1, 3, 3, {0, 2, 1, 2}, {0, 1});
            }),
            "mask head 0 row 1: row_begin falls from 2 to 1");
  EXPECT_EQ(error_of([] { from_csr(1, 2, 3, {0, -1, 2}, {0, 1}); }), "mask head 0 row 0: row_begin falls from 0 to -1");
  EXPECT_EQ(error_of([] { from_csr(2, 1, 3, {0, 1, 2}, {0, 3}); }), "mask head 1 row 0: key tile 3 is outside [0, 3)");
  EXPECT_EQ(error_of([] {
              from_csr(1, 1, 3, {0, 2}, {1, 1});
            }),
            "mask head 0 row 0: key tile 1 follows 1; expected strictly ascending tiles");
  EXPECT_NE(error_of([] { from_csr(int64_t{1} << 40, int64_t{1} << 40, 1, {0}, {}); }).find("use a larger tile"),
            std::string::npos);
  EXPECT_EQ(error_of([] {
              check_mask({1, 1, false, {}, {}});
            }),
            "mask row_begin: expected at least one entry, received none");
  EXPECT_EQ(error_of([] {
              check_mask({-1, 1, true, {0}, {}});
            }),
            "mask: expected rows and cols of at least 0, received -1 and 1");
  const BlockMask small = dense({1, 1, 4}, {1, 1, 2});
  EXPECT_EQ(error_of([&] {
              visible_pairs(small, TileOrder({1, 1, 9}, {1, 1, 2}));
            }),
            "mask of 2 x 2 tiles: the grid 1x1x9 has 5 tiles of 1x1x2; build the mask for this grid and tile");
}

TEST(PerHead, StacksMasksInOrderAndRefusesOtherShapes) {
  const Grid grid = {5, 8, 9}, tile = {2, 4, 8};
  const BlockMask a = sliding_tile(grid, tile, {1, 1, 1}), b = dense(grid, tile);
  const BlockMask stacked = per_head({a, b, a});
  check_mask(stacked);
  ASSERT_EQ(stacked.heads(), 3);
  for (int64_t r = 0; r < a.rows; ++r) {
    EXPECT_TRUE(std::ranges::equal(stacked.visible(0, r), a.visible(0, r)));
    EXPECT_TRUE(std::ranges::equal(stacked.visible(1, r), b.visible(0, r)));
    EXPECT_TRUE(std::ranges::equal(stacked.visible(2, r), a.visible(0, r)));
  }
  EXPECT_EQ(error_of([] { per_head({}); }), "per_head: expected at least one mask, received none");
  EXPECT_EQ(error_of([&] {
              per_head({a, dense({1, 1, 1}, tile)});
            }),
            "per_head: mask 1 has 1 x 1 tiles; expected 12 x 12 as the first");
  EXPECT_EQ(error_of([&] { per_head({stacked}); }), "per_head: mask 0 holds 3 heads; expected one per entry");
}

TEST(BlockMask, TransposedExchangesRowsAndColumnsOfOneHead) {
  const std::vector<uint8_t> visible = {1, 0, 1, 0, 0, 0, 1, 1, 1, 1, 1, 0};
  const auto mask = from_matrix(visible, 2, 2, 3);
  EXPECT_EQ(transposed(mask, 0), from_matrix(std::vector<uint8_t>{1, 0, 0, 0, 1, 0}, 1, 3, 2));
  EXPECT_EQ(transposed(mask, 1), from_matrix(std::vector<uint8_t>{1, 1, 1, 1, 1, 0}, 1, 3, 2));
}

}  // namespace
}  // namespace fpsa::pattern
