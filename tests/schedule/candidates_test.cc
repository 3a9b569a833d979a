#include "fpsa/schedule/candidates.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "fpsa/base/check.h"

namespace fpsa::schedule {
namespace {

using pattern::kAllTiles;
using pattern::kFullWindow;

std::string error_of(const std::string& text) {
  try {
    parse_candidates(text, "c.toml");
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(DefaultTile, IsThePapersOnWansGridsAndSmallerOnSmallOnes) {
  EXPECT_EQ(default_tile({21, 45, 80}), (Grid{6, 8, 8}));
  EXPECT_EQ(default_tile({21, 30, 52}), (Grid{6, 8, 8}));
  EXPECT_EQ(default_tile({9, 16, 16}), (Grid{3, 4, 4}));
  EXPECT_EQ(default_tile({1, 8, 100}), (Grid{2, 2, 8}));
}

TEST(DefaultCandidates, SpanTheDensitiesWithoutRepeating) {
  for (const Grid grid : {Grid{21, 45, 80}, Grid{9, 16, 16}, Grid{12, 24, 24}, Grid{1, 1, 1}}) {
    const Grid tile = default_tile(grid);
    const auto list = default_candidates(grid, tile, Quant::kE4m3);
    EXPECT_NO_THROW(validate(list));
    EXPECT_EQ(list.tile, tile);
    EXPECT_EQ(density_of(list.candidates[0], grid, tile), 1.0);
    double sparsest = 1;
    for (const auto& candidate : list.candidates)
      sparsest = std::min(sparsest, density_of(candidate, grid, tile));
    if (grid.volume() > 1) {
      EXPECT_LE(sparsest, 0.25) << pattern::to_string(grid);
    } else {
      EXPECT_EQ(list.candidates.size(), 2u);  // one tile: two granularities of one window
    }
  }
}

TEST(DefaultCandidates, LetEveryTileExchangeWithItsNeighbours) {
  for (const Grid grid : {Grid{21, 45, 80}, Grid{9, 16, 16}, Grid{3, 4, 4}, Grid{1, 40, 2}}) {
    const Grid tile = default_tile(grid), tiles = pattern::tiles_per_axis(grid, tile);
    for (const auto& candidate : default_candidates(grid, tile, Quant::kE4m3).candidates) {
      if (candidate.window == kFullWindow) continue;
      for (const auto& [window, count] : {std::pair(candidate.window.t, tiles.t), std::pair(candidate.window.y, tiles.y),
                                          std::pair(candidate.window.x, tiles.x)})
        EXPECT_TRUE(window == kAllTiles || window >= std::min<int64_t>(2, count)) << to_string(candidate);
    }
  }
}

TEST(DefaultCandidates, HaveTwoShapesOfEachDensity) {
  // Tiles 4 x 6 x 10. Halves and quarters exist exactly, with every tile along t too.
  std::set<std::string> windows;
  for (const auto& candidate : default_candidates({24, 48, 80}, {6, 8, 8}, Quant::kInt8).candidates) {
    EXPECT_EQ(candidate.quant, Quant::kInt8);
    windows.insert(to_string(candidate).substr(to_string(candidate).find("window")));
  }
  EXPECT_EQ(windows.size(), 7u);
  for (const char* window : {"window all, int8", "window (4,3,5), int8"})
    EXPECT_TRUE(windows.contains(window)) << window;
}

TEST(DefaultCandidates, HaveWholeAxesForHeads) {
  // Tiles 3 x 4 x 4: what heads share a layer with may be cut along an axis, but is never all tiles, or one.
  const auto phases = default_candidates({9, 16, 16}, {3, 4, 4}, Quant::kE4m3);
  const auto heads = default_candidates({9, 16, 16}, {3, 4, 4}, Quant::kE4m3, Detail::kHeads);
  EXPECT_EQ(default_candidates({9, 16, 16}, {3, 4, 4}, Quant::kE4m3, Detail::kLayers), phases);
  ASSERT_EQ(heads.candidates.size(), phases.candidates.size() + 6);
  std::set<std::string> added;
  for (size_t i = phases.candidates.size(); i < heads.candidates.size(); ++i)
    added.insert(to_string(heads.candidates[i]));
  for (const char* window : {"(3,1,1)", "(1,4,1)", "(1,1,4)", "(3,4,1)", "(3,1,4)", "(1,4,4)"})
    EXPECT_TRUE(added.contains(join("granularity (3,4,4), window ", window, ", e4m3"))) << window;
  // With one tile of time three of them are all tiles, a single one or another of them.
  for (const auto& candidate : default_candidates({1, 16, 16}, {1, 4, 4}, Quant::kE4m3, Detail::kHeads).candidates)
    EXPECT_TRUE(candidate.window != (Grid{1, 4, 4}) && candidate.window != (Grid{1, 1, 1})) << to_string(candidate);
  EXPECT_NO_THROW(validate(default_candidates({1, 16, 16}, {1, 4, 4}, Quant::kE4m3, Detail::kHeads)));
}

TEST(DefaultCandidates, WithoutQuantisationHaveOneGranularity) {
  for (const auto& candidate : default_candidates({9, 16, 16}, {3, 4, 4}, Quant::kNone).candidates)
    EXPECT_EQ(candidate.granularity, (Grid{3, 4, 4}));
}

TEST(DensityOf, CountsTokensOfPartialTiles) {
  // Tiles of 2 and 1 tokens along x; a window of one tile sees its own: (2*2 + 1*1) / 9.
  EXPECT_DOUBLE_EQ(density_of({{1, 1, 2}, {1, 1, 1}, Quant::kE4m3}, {1, 1, 3}, {1, 1, 2}), 5.0 / 9.0);
}

TEST(ParseCandidates, ReadsAList) {
  const auto list = parse_candidates(
      "tile = [3, 4, 4]\n[[candidate]]\ngranularity = [3, 8, 8]\nwindow = 'all'\nquant = 'int8'\n"
      "[[candidate]]\ngranularity = [1, 1, 1]\nwindow = ['all', 2, 2]\nquant = 'e4m3'\n",
      "c.toml");
  EXPECT_EQ(list.tile, (Grid{3, 4, 4}));
  ASSERT_EQ(list.candidates.size(), 2u);
  EXPECT_EQ(list.candidates[0], (Candidate{{3, 8, 8}, kFullWindow, Quant::kInt8}));
  EXPECT_EQ(to_string(list.candidates[1]), "granularity (1,1,1), window (all,2,2), e4m3");
}

TEST(ParseCandidates, NamesTheLineOfWhatIsWrong) {
  const std::string one = "[[candidate]]\ngranularity = [6, 8, 8]\nwindow = 'all'\nquant = 'e4m3'\n";
  EXPECT_NE(error_of("").find("c.toml: candidate: expected at least one"), std::string::npos) << error_of("");
  EXPECT_NE(error_of("candidates = 1\n").find("c.toml:1: candidates: unknown key 'candidates'"), std::string::npos);
  EXPECT_NE(error_of(one + one).find("c.toml:5: candidate 2: repeats candidate 1"), std::string::npos);
  EXPECT_NE(error_of(one + "[[candidate]]\nwindow = 'all'\nquant = 'e4m3'\n").find("'granularity' is missing"),
            std::string::npos);
  EXPECT_NE(error_of("tile = [4, 4, 4]\n" + one).find("c.toml:3: candidate 1 granularity"), std::string::npos);
  EXPECT_NE(error_of("[[candidate]]\ngranularity = [6, 8, 8]\nwindow = [0, 1, 1]\nquant = 'e4m3'\n")
                .find("c.toml:3: candidate 1 window"),
            std::string::npos);
  EXPECT_NE(error_of("[[candidate]\n").find("c.toml:1: syntax"), std::string::npos);
}

}  // namespace
}  // namespace fpsa::schedule
