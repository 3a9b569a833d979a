#include "fpsa/plan/geometry.h"

#include <gtest/gtest.h>

#include <memory>
#include <set>

#include "fpsa/base/check.h"

namespace fpsa::plan {
namespace {

using pattern::Grid;

int64_t cost(const kernel::QueryBlock& block) {
  int64_t keys = 0;
  for (int32_t r = 0; r < block.range_count; ++r)
    keys += block.ranges[r].end - block.ranges[r].begin;
  return keys * (block.end - block.begin);
}

TEST(Geometry, WorkIsEveryBlockOnceAndTheCostlyFirst) {
  const Grid grid{5, 7, 9}, tile{2, 3, 4};
  const int64_t tiles = pattern::tiles_per_axis(grid, tile).volume();
  std::vector<uint8_t> lower(static_cast<size_t>(tiles * tiles));
  for (int64_t row = 0; row < tiles; ++row)
    for (int64_t col = 0; col < row; ++col)  // the first row sees nothing
      lower[static_cast<size_t>(row * tiles + col)] = 1;
  const Geometry geometry(
      grid, tile, tile,
      pattern::per_head({pattern::from_matrix(lower, 1, tiles, tiles), pattern::sliding_tile(grid, tile, {1, 2, 2})}));
  for (const int64_t head : {0, 1}) {
    const auto blocks = geometry.visibility(head).blocks(), work = geometry.work(head);
    ASSERT_EQ(blocks.size(), work.size());
    std::set<int32_t> begins;
    int64_t largest = 0;
    for (const auto& block : work) {
      begins.insert(block.begin);
      largest = std::max(largest, cost(block));
    }
    EXPECT_EQ(begins.size(), blocks.size());
    for (size_t i = 1; i < work.size(); ++i)  // within a class of a quarter
      EXPECT_LE(cost(work[i]), cost(work[i - 1]) + largest / 4) << i;
    EXPECT_LE(cost(work.back()), largest / 4 + 1);
  }
  EXPECT_EQ(cost(geometry.work(0).back()), 0);
}

TEST(Geometry, SaysWhetherEveryPairIsVisible) {
  const Grid grid{2, 4, 4}, tile{1, 2, 4};
  EXPECT_TRUE(Geometry(grid, tile, tile, pattern::dense(grid, tile)).dense());
  const Geometry sparse(grid, tile, tile, pattern::sliding_tile(grid, tile, {1, 1, 1}));
  EXPECT_FALSE(sparse.dense());
  EXPECT_EQ(sparse.density(), 0.25);
}

TEST(Geometry, RefusesAMaskThatDoesNotFit) {
  const Grid grid{2, 4, 4}, tile{1, 2, 4};
  EXPECT_THROW(Geometry(grid, tile, tile, pattern::dense(grid, {2, 4, 4})), Error);
  auto outside = pattern::dense(grid, tile);
  outside.col.back() = 4;
  EXPECT_THROW(Geometry(grid, tile, tile, outside), Error);
  EXPECT_THROW(Geometry(grid, tile, Grid{1, 3, 4}, pattern::dense(grid, tile)), Error);
}

TEST(Geometry, RunsOfAGroupAreItsRunsInOrder) {
  const Grid grid{5, 7, 9}, tile{2, 3, 4};
  for (const Grid& granularity : {tile, Grid{1, 3, 2}, Grid{4, 6, 4}, Grid{1, 6, 8}}) {
    const Geometry geometry(grid, tile, granularity, pattern::sliding_tile(grid, tile, {1, 1, 1}));
    const auto& groups = geometry.groups();
    size_t runs = 0;
    for (int64_t group = 0; group < groups.count; ++group) {
      ASSERT_FALSE(geometry.runs_of(group).empty());
      int32_t before = -1;
      for (const int32_t run : geometry.runs_of(group)) {
        EXPECT_EQ(groups.run_group[static_cast<size_t>(run)], group);
        EXPECT_GT(run, before);
        before = run;
        ++runs;
      }
    }
    EXPECT_EQ(runs, groups.run_group.size());
  }
}

TEST(Geometry, WhatIsDerivedIsMadeOnceAndLivesWithIt) {
  const Grid grid{2, 4, 4}, tile{1, 2, 4};
  auto geometry = std::make_unique<Geometry>(grid, tile, tile, pattern::dense(grid, tile));
  int made = 0;
  const auto make = [&] { return std::make_shared<const int>(++made); };
  EXPECT_THROW(geometry->derived().get(0, []() -> std::shared_ptr<const void> { throw Error("no device"); }), Error);
  const std::weak_ptr<const void> first = geometry->derived().get(0, make);
  EXPECT_EQ(geometry->derived().get(0, make), first.lock());
  EXPECT_NE(geometry->derived().get(1, make), first.lock());
  EXPECT_EQ(made, 2);
  geometry.reset();
  EXPECT_TRUE(first.expired());
}

}  // namespace
}  // namespace fpsa::plan
