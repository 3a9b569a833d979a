#include "fpsa/pattern/radial.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <random>

#include "fpsa/base/check.h"
#include "tests/pattern/grid_cases.h"

namespace fpsa::pattern {
namespace {

// The token rule as the header states it.
bool token_sees(int64_t qt, int64_t q, int64_t kt, int64_t k, int64_t frame_tokens, const RadialOptions& o) {
  const int64_t d = std::abs(qt - kt);
  if (d <= 1 || kt == 0) return true;
  const auto power_of_length = [](int64_t n) { return std::exp2(std::bit_width(static_cast<uint64_t>(n))); };
  const double band = power_of_length(frame_tokens) / power_of_length(d);
  if (band < static_cast<double>(o.min_band) &&
      d % static_cast<int64_t>(std::floor(static_cast<double>(o.min_band) / band)) != 0) {
    return false;
  }
  return static_cast<double>(std::abs(q - k)) <= std::max(band * o.decay, static_cast<double>(o.min_band));
}

// The tile rule by counting the columns of the token mask.
bool tile_sees(const TileOrder& order, int64_t a, int64_t b, const RadialOptions& o) {
  if (a == b) return true;
  const Grid& grid = order.grid();
  const int64_t frame = grid.y * grid.x;
  int64_t seen = 0, well_seen = 0;
  for (int32_t kp = order.tile_begin(b); kp < order.tile_begin(b + 1); ++kp) {
    const int64_t k = order.to_raster()[static_cast<size_t>(kp)];
    if (k / frame == 0) return true;  // the tile holds frame 0
    int64_t count = 0;
    for (int32_t qp = order.tile_begin(a); qp < order.tile_begin(a + 1); ++qp) {
      const int64_t q = order.to_raster()[static_cast<size_t>(qp)];
      count += token_sees(q / frame, q % frame, k / frame, k % frame, frame, o);
    }
    seen += count > 0;
    well_seen += static_cast<double>(count) > order.tile_tokens(a) / 3.0;
  }
  return static_cast<double>(well_seen) > 0.6 * static_cast<double>(seen);
}

TEST(Radial, MatchesTheTokenRuleTilePairByTilePair) {
  std::vector<cases::Case> list = cases::all(40, 11);
  list.push_back({{19, 6, 7}, {2, 3, 3}});  // deep enough in time that frames are dropped
  for (const cases::Case& c : list) {
    if (c.grid.volume() > 2400) continue;
    for (const RadialOptions o :
         {RadialOptions{0.2, 128}, RadialOptions{0.5, 4}, RadialOptions{1.0, 16}, RadialOptions{0.3, 1}}) {
      const BlockMask mask = radial(c.grid, c.tile, o);
      const TileOrder order(c.grid, c.tile);
      for (int64_t a = 0; a < mask.rows; ++a) {
        const auto visible = mask.visible(0, a);
        for (int64_t b = 0; b < mask.cols; ++b) {
          ASSERT_EQ(std::ranges::binary_search(visible, static_cast<int32_t>(b)), tile_sees(order, a, b, o))
              << cases::label(c) << " decay " << o.decay << " min_band " << o.min_band << " tiles " << a << ", " << b;
        }
      }
    }
  }
}

TEST(Radial, IsSparseOnARealGridAndKeepsTheFirstTilesOfTime) {
  const Grid grid = {21, 45, 80}, tile = {6, 8, 8};
  const BlockMask mask = radial(grid, tile);
  check_mask(mask);
  const double d = density(mask, TileOrder(grid, tile));
  EXPECT_GT(d, 0.2);
  EXPECT_LT(d, 0.8);
  for (int64_t r = 0; r < mask.rows; ++r) {
    const auto visible = mask.visible(0, r);
    for (int32_t first = 0; first < 60; ++first)
      ASSERT_EQ(visible[static_cast<size_t>(first)], first);
  }
}

TEST(Radial, ABandAsWideAsTheFrameIsDense) {
  const Grid grid = {6, 8, 8}, tile = {2, 4, 4};
  EXPECT_EQ(radial({2, 8, 8}, {1, 4, 4}, {0.2, 1}), dense({2, 8, 8}, {1, 4, 4})) << "only neighbouring frames";
  // b(d) >= 128 / 8 = 16 for d <= 5, so nothing is dropped at min_band 16, and decay 1 with min_band 64 covers
  // any two tokens of a frame of 64.
  RadialOptions wide{1.0, 16};
  const BlockMask partial = radial(grid, tile, wide);
  EXPECT_LE(partial.col.size(), dense(grid, tile).col.size());
  EXPECT_EQ(radial({3, 8, 8}, tile, {1.0, 32}), dense({3, 8, 8}, tile)) << "band 32 of 64 covers more than a third";
}

TEST(Radial, RefusesOptionsOutOfRange) {
  const auto error_of = [](const Grid& tile, const RadialOptions& o) -> std::string {
    try {
      radial({21, 45, 80}, tile, o);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  };
  EXPECT_EQ(error_of({6, 8, 8}, {0.0, 128}), "radial decay = 0: expected (0, 1]");
  EXPECT_EQ(error_of({6, 8, 8}, {std::nan(""), 128}), "radial decay = nan: expected (0, 1]");
  EXPECT_EQ(error_of({6, 8, 8}, {0.2, 0}), "radial min_band = 0: expected at least 1 token");
  EXPECT_EQ(error_of({1, 1, 1}, {}),
            "radial mask of 75600 x 75600 tiles: more than 134217728 tile pairs; use a larger tile");
}

}  // namespace
}  // namespace fpsa::pattern
