#include "fpsa/pattern/order.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <set>
#include <tuple>

#include "fpsa/base/check.h"
#include "tests/error_of.h"
#include "tests/pattern/grid_cases.h"

namespace fpsa::pattern {
namespace {

std::vector<cases::Case> many() {
  std::vector<cases::Case> list = cases::all(60, 15);
  for (const cases::Case& c : cases::real())
    list.push_back(c);
  return list;
}

struct Token {
  int64_t t, y, x;
};

Token token_of(int64_t raster, const Grid& g) {
  return {raster / (g.y * g.x), raster / g.x % g.y, raster % g.x};
}

TEST(TileOrder, RoundTripVisitsEveryTokenOnce) {
  for (const cases::Case& c : many()) {
    const TileOrder order(c.grid, c.tile);
    ASSERT_EQ(order.tokens(), c.grid.volume()) << cases::label(c);
    ASSERT_EQ(order.from_raster().size(), order.to_raster().size());
    std::vector<bool> seen(static_cast<size_t>(order.tokens()));
    for (int64_t p = 0; p < order.tokens(); ++p) {
      const int32_t raster = order.to_raster()[static_cast<size_t>(p)];
      ASSERT_TRUE(raster >= 0 && raster < order.tokens() && !seen[static_cast<size_t>(raster)]) << cases::label(c);
      seen[static_cast<size_t>(raster)] = true;
      ASSERT_EQ(order.from_raster()[static_cast<size_t>(raster)], p) << cases::label(c);
    }
  }
}

TEST(TileOrder, TokensAreSortedByTileThenRaster) {
  for (const cases::Case& c : many()) {
    const TileOrder order(c.grid, c.tile);
    // The oracle: sort all tokens by (tile in raster order, raster index).
    std::vector<int64_t> expected(static_cast<size_t>(c.grid.volume()));
    std::iota(expected.begin(), expected.end(), 0);
    const auto key = [&](int64_t raster) {
      const Token k = token_of(raster, c.grid);
      return std::tuple(k.t / c.tile.t, k.y / c.tile.y, k.x / c.tile.x, raster);
    };
    std::sort(expected.begin(), expected.end(), [&](int64_t a, int64_t b) { return key(a) < key(b); });
    ASSERT_TRUE(std::equal(expected.begin(), expected.end(), order.to_raster().begin())) << cases::label(c);
  }
}

TEST(TileOrder, TilesCutTheOrderIntoBoxesWithOneRemainderPerAxis) {
  for (const cases::Case& c : many()) {
    const TileOrder order(c.grid, c.tile);
    const Grid n = order.tile_grid();
    ASSERT_EQ(order.tile_count(), n.volume()) << cases::label(c);
    ASSERT_EQ(order.tile_begin(0), 0);
    ASSERT_EQ(order.tile_begin(order.tile_count()), order.tokens());
    int64_t tile = 0;
    for (int64_t i = 0; i < n.t; ++i) {
      for (int64_t j = 0; j < n.y; ++j) {
        for (int64_t k = 0; k < n.x; ++k, ++tile) {
          const int64_t expected = std::min(c.tile.t, c.grid.t - i * c.tile.t) *
                                   std::min(c.tile.y, c.grid.y - j * c.tile.y) *
                                   std::min(c.tile.x, c.grid.x - k * c.tile.x);
          ASSERT_EQ(order.tile_tokens(tile), expected) << cases::label(c) << " tile " << tile;
          ASSERT_GE(expected, 1);
        }
      }
    }
  }
}

TEST(TileOrder, GranularityMovesTokensOnlyInsideTheirTile) {
  std::mt19937 random(cases::kSeed);
  for (const cases::Case& c : many()) {
    const TileOrder plain(c.grid, c.tile);
    const Grid g = cases::granularity(c.tile, random);
    const TileOrder fine(c.grid, c.tile, g);
    ASSERT_EQ(plain.tile_begin(), fine.tile_begin()) << cases::label(c);
    for (int64_t tile = 0; tile < plain.tile_count(); ++tile) {
      std::vector<int32_t> a(plain.to_raster().begin() + plain.tile_begin(tile),
                             plain.to_raster().begin() + plain.tile_begin(tile + 1));
      std::vector<int32_t> b(fine.to_raster().begin() + fine.tile_begin(tile),
                             fine.to_raster().begin() + fine.tile_begin(tile + 1));
      std::sort(a.begin(), a.end());
      std::sort(b.begin(), b.end());
      ASSERT_EQ(a, b) << cases::label(c) << " granularity " << to_string(g) << " tile " << tile;
    }
    for (int64_t raster = 0; raster < fine.tokens(); ++raster) {
      const int32_t position = fine.from_raster()[static_cast<size_t>(raster)];
      ASSERT_EQ(fine.to_raster()[static_cast<size_t>(position)], raster);
    }
  }
}

TEST(TileOrder, CoarseGranularityKeepsTheOrder) {
  for (const cases::Case& c : many()) {
    const Grid coarse = {2 * c.tile.t, c.tile.y, 3 * c.tile.x};
    EXPECT_EQ(TileOrder(c.grid, c.tile).to_raster(), TileOrder(c.grid, c.tile, coarse).to_raster()) << cases::label(c);
  }
}

TEST(TokenGroups, TokensShareAGroupExactlyWhenTheyShareABox) {
  std::mt19937 random(cases::kSeed);
  for (const cases::Case& c : many()) {
    for (int trial = 0; trial < 3; ++trial) {
      const Grid g = cases::granularity(c.tile, random);
      const TileOrder order(c.grid, c.tile, g);
      const TokenGroups groups = token_groups(order);
      ASSERT_EQ(groups.count, tiles_per_axis(c.grid, g).volume()) << cases::label(c) << " g " << to_string(g);
      std::set<std::tuple<int64_t, int64_t, int64_t, int32_t>> pairs;
      int32_t next = 0;
      for (int64_t p = 0; p < order.tokens(); ++p) {
        const Token k = token_of(order.to_raster()[static_cast<size_t>(p)], c.grid);
        const int32_t group = groups.of_token[static_cast<size_t>(p)];
        ASSERT_LE(group, next) << "groups are numbered by first appearance";
        next = std::max(next, group + 1);
        pairs.insert({k.t / g.t, k.y / g.y, k.x / g.x, group});
      }
      // As many (box, group) pairs as groups: the map between boxes and groups is one to one.
      ASSERT_EQ(static_cast<int64_t>(pairs.size()), groups.count) << cases::label(c) << " g " << to_string(g);
    }
  }
}

TEST(TokenGroups, RunsCoverTheOrderStayInTheirTileAndAreMaximal) {
  std::mt19937 random(cases::kSeed + 1);
  for (const cases::Case& c : many()) {
    const Grid g = cases::granularity(c.tile, random);
    const TileOrder order(c.grid, c.tile, g);
    const TokenGroups groups = token_groups(order);
    ASSERT_EQ(groups.run_begin.size(), groups.run_group.size() + 1);
    ASSERT_EQ(groups.run_begin.front(), 0);
    ASSERT_EQ(groups.run_begin.back(), order.tokens());
    int64_t tile = 0;
    for (size_t r = 0; r < groups.run_group.size(); ++r) {
      const int32_t begin = groups.run_begin[r], end = groups.run_begin[r + 1];
      ASSERT_LT(begin, end);
      while (order.tile_begin(tile + 1) <= begin)
        ++tile;
      ASSERT_LE(end, order.tile_begin(tile + 1)) << "run crosses a tile: " << cases::label(c);
      for (int32_t p = begin; p < end; ++p)
        ASSERT_EQ(groups.of_token[static_cast<size_t>(p)], groups.run_group[r]);
      const bool same_tile = r > 0 && begin > order.tile_begin(tile);
      if (same_tile) {
        ASSERT_NE(groups.run_group[r], groups.run_group[r - 1]) << cases::label(c);
      }
    }
  }
}

TEST(TokenGroups, FineGroupsAreOneRunEach) {
  std::mt19937 random(cases::kSeed + 2);
  for (const cases::Case& c : many()) {
    Grid g = cases::granularity(c.tile, random);
    g = {std::min(g.t, c.tile.t), std::min(g.y, c.tile.y), std::min(g.x, c.tile.x)};
    const TokenGroups groups = token_groups(TileOrder(c.grid, c.tile, g));
    ASSERT_EQ(static_cast<int64_t>(groups.run_group.size()), groups.count) << cases::label(c) << " g " << to_string(g);
    for (size_t r = 0; r < groups.run_group.size(); ++r)
      ASSERT_EQ(groups.run_group[r], static_cast<int32_t>(r));
  }
}

TEST(TokenGroups, GroupsThatMixFineAndCoarseAxesAreOneRunPerTile) {
  std::mt19937 random(cases::kSeed + 3);
  for (const cases::Case& c : many()) {
    const Grid g = cases::granularity(c.tile, random);
    const TileOrder order(c.grid, c.tile, g);
    const TokenGroups groups = token_groups(order);
    std::set<std::pair<int64_t, int32_t>> seen;
    int64_t tile = 0;
    for (size_t r = 0; r < groups.run_group.size(); ++r) {
      while (order.tile_begin(tile + 1) <= groups.run_begin[r])
        ++tile;
      ASSERT_TRUE(seen.insert({tile, groups.run_group[r]}).second)
          << "group " << groups.run_group[r] << " is split in tile " << tile << ": " << cases::label(c);
    }
  }
}

TEST(TokenGroups, TileGranularityIsTheTile) {
  const TileOrder order({21, 45, 80}, {6, 8, 8});
  const TokenGroups groups = token_groups(order);
  EXPECT_EQ(groups.count, 240);
  EXPECT_EQ(groups.run_begin, order.tile_begin());
}

TEST(TileOrder, RefusesImpossibleExtents) {
  EXPECT_EQ(error_of([] {
              TileOrder({0, 1, 1}, {1, 1, 1});
            }),
            "grid 0x1x1: expected every extent (t, y, x) to be at least 1");
  EXPECT_EQ(error_of([] {
              TileOrder({1, 1, 1}, {1, -8, 1});
            }),
            "tile 1x-8x1: expected every extent (t, y, x) in [1, 2147483647]");
  EXPECT_EQ(error_of([] {
              TileOrder({1, 65536, 65536}, {6, 8, 8});
            }),
            "grid 1x65536x65536: more than 2147483647 tokens; lower the size or the number of frames");
  const int64_t huge = int64_t{1} << 62;
  EXPECT_NE(error_of([&] {
              TileOrder({huge, huge, huge}, {6, 8, 8});
            }).find("more than 2147483647 tokens"),
            std::string::npos);
}

TEST(TileOrder, RefusesAGranularityThatDoesNotFitTheTileAndNamesTheNearest) {
  EXPECT_EQ(error_of([] {
              TileOrder({21, 45, 80}, {6, 8, 8}, {6, 3, 8});
            }),
            "granularity y = 3: expected a multiple or a divisor of the tile's y = 8; the nearest are 2 and 4");
  EXPECT_EQ(error_of([] {
              TileOrder({21, 45, 80}, {6, 8, 8}, {15, 8, 8});
            }),
            "granularity t = 15: expected a multiple or a divisor of the tile's t = 6; the nearest are 12 and 18");
  EXPECT_EQ(error_of([] {
              TileOrder({21, 45, 80}, {6, 8, 8}, {6, 8, 0});
            }),
            "granularity x = 0: expected a multiple or a divisor of the tile's x = 8; the nearest is 1");
}

TEST(TileOrder, AcceptsTilesAndGranularitiesFarLargerThanTheGrid) {
  const int64_t huge = kMaxTokens;
  const TileOrder order({2, 3, 5}, {huge, huge, huge}, {2 * huge, huge, huge});
  EXPECT_EQ(order.tile_count(), 1);
  EXPECT_EQ(token_groups(order).count, 1);
}

}  // namespace
}  // namespace fpsa::pattern
