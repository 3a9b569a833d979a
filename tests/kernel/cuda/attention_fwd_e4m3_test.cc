// The source of attention_fwd_e4m3_sm90a on emulated instructions against the CPU reference on the same codes.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "fpsa/base/check.h"
#include "fpsa/numeric/bounds.h"
#include "fpsa/numeric/e4m3.h"
#include "tests/kernel/cuda/emulated_attention.h"
#include "tests/kernel/cuda/emulated_cases.h"

namespace fpsa::kernel::cuda {
namespace {

using pattern::Grid;
using testing_support::EmulatedAttention;
using testing_support::EmulatedProblem;
using testing_support::EmulatedResult;
using testing_support::ragged;
using testing_support::seeded;

void check(const EmulatedProblem& problem, const EmulatedAttention::RunOptions& run = {}, int seeds = 2) {
  const EmulatedAttention attention(problem);
  const EmulatedResult want = attention.reference();
  for (int seed = 1; seed <= seeds; ++seed) {
    SCOPED_TRACE(join("seed ", seed));
    EXPECT_EQ(attention.violation(attention.emulated(run, seeded(seed)), want, run.exact), "");
  }
}

TEST(AttentionFwdE4m3Sm90a, MatchesTheReferenceOnRaggedTilesAndAWindow) {
  for (const int64_t dim : {64, 128}) {
    SCOPED_TRACE(join("dim ", dim));
    check(ragged(dim));
  }
}

TEST(AttentionFwdE4m3Sm90a, MatchesTheReferenceOnAllTilesWithLargeScores) {
  EmulatedProblem problem = ragged(128);
  problem.mask = pattern::dense(problem.grid, problem.tile);
  problem.spread = 3;
  check(problem);
}

TEST(AttentionFwdE4m3Sm90a, MatchesTheReferenceWithScalesThatChangeInsideASegment) {
  // A scale for each token: neighbours of a pair, which one thread multiplies at once, differ.
  for (const Grid& granularity : {Grid{1, 2, 4}, Grid{1, 1, 1}}) {
    SCOPED_TRACE(to_string(granularity));
    EmulatedProblem problem = ragged(granularity.x == 1 ? 64 : 128);
    problem.granularity = granularity;
    ASSERT_TRUE(EmulatedAttention(problem).column_scales());
    check(problem);
  }
}

TEST(AttentionFwdE4m3Sm90a, GivesTheOutputWithUnroundedP) {
  for (const bool fine : {false, true}) {
    EmulatedProblem problem = ragged(fine ? 64 : 128);
    if (fine) problem.granularity = {1, 2, 4};
    check(problem, {.exact = true});
  }
}

TEST(AttentionFwdE4m3Sm90a, ServesEveryCaseOfTheTableThatDevicesWalk) {
  for (const auto& [name, problem, exact] : testing_support::attention_cases()) {
    SCOPED_TRACE(name);
    check(problem, {.exact = exact}, 1);
  }
}

TEST(AttentionFwdE4m3Sm90a, TheTablesCheckNoticesAWrongRow) {
  const EmulatedAttention attention(ragged(64));
  const EmulatedResult want = attention.reference();
  EXPECT_EQ(attention.violation(want, want, false), "");
  for (const int what : {0, 1, 2}) {
    EmulatedResult wrong = want;
    (what == 0 ? wrong.out[64 * 17 + 3] : what == 1 ? wrong.lse[17] : wrong.row_max[17]) += 1.5f;
    EXPECT_NE(attention.violation(wrong, want, false), "") << what;
  }
}

TEST(AttentionFwdE4m3Sm90a, AddsSeveralBlocksInTheTensorCoreWhenAsked) {
  EmulatedProblem problem = ragged(64);
  problem.grid = {3, 7, 40};
  problem.mask = pattern::dense(problem.grid, problem.tile);
  problem.spread = 2;
  check(problem, {.fold_every = 3});
}

// What a card is expected to do: its bits are not the F32 emulation's, but stay within the bound.
TEST(AttentionFwdE4m3Sm90a, StaysWithinTheBoundOfATensorCoreThatKeeps13Bits) {
  for (const int64_t dim : {64, 128}) {
    const EmulatedAttention attention(ragged(dim));
    emulation::Options options;
    options.accumulator_bits = 13;
    const EmulatedResult got = attention.emulated({}, options);
    EXPECT_NE(got.out, attention.emulated({}, {}).out);
    EXPECT_EQ(attention.violation(got, attention.reference(), false, {0, options.accumulator_bits}), "");
  }
}

TEST(AttentionFwdE4m3Sm90a, EveryHeadHasItsMaskAndSomeRowsSeeNothing) {
  EmulatedProblem problem = ragged(64);
  problem.grid = {2, 7, 18};
  problem.batch = 2;
  problem.heads = 2;
  const auto tiles = pattern::tiles_per_axis(problem.grid, problem.tile).volume();
  problem.mask = pattern::from_matrix(testing_support::visible_by_head(tiles), 2, tiles, tiles);
  check(problem, {.blocks = 3});
}

TEST(AttentionFwdE4m3Sm90a, TakesAGridSmallerThanABlock) {
  EmulatedProblem problem = ragged(64);
  problem.grid = {1, 1, 5};
  problem.mask = pattern::dense(problem.grid, problem.tile);
  check(problem, {}, 4);
}

TEST(AttentionFwdE4m3Sm90a, ClustersGiveTheBitsOfSingleBlocks) {
  testing_support::expect_the_bits_of_single_blocks<EmulatedAttention>();
}

TEST(AttentionFwdE4m3Sm90a, BitsDependNeitherOnTheSeedNorOnTheNumberOfBlocks) {
  testing_support::expect_the_same_bits_always<EmulatedAttention>();
}

TEST(AttentionFwdE4m3Sm90a, HalfPrecisionOutputIsTheRoundedF32Output) {
  testing_support::expect_half_precision_is_rounded<EmulatedAttention>();
}

TEST(AttentionFwdE4m3Sm90a, ScalesWhoseProductUnderflowsWeighAllKeysAlike) {
  for (const bool fine : {false, true}) {
    EmulatedProblem problem = ragged(64);
    if (fine) problem.granularity = {1, 2, 4};
    EmulatedAttention attention(problem);
    ASSERT_EQ(attention.column_scales(), fine);
    for (auto* scales : {&attention.q_scale, &attention.k_scale})
      for (float& scale : *scales)
        scale = 1e-30f;
    EXPECT_EQ(attention.violation(attention.emulated({}, {}), attention.reference(), false), "");
  }
}

TEST(AttentionFwdE4m3Sm90a, ANanInAKeyOrAScaleReachesTheRowsThatSeeIt) {
  for (const bool in_scale : {false, true}) {
    EmulatedProblem problem = ragged(64);
    problem.grid = {2, 4, 32};  // 4 tiles of 64
    problem.mask = pattern::sliding_tile(problem.grid, problem.tile, {1, 1, 2});
    EmulatedAttention attention(problem);
    if (in_scale)
      std::fill_n(attention.k_scale.begin(), 64, std::numeric_limits<float>::quiet_NaN());
    else
      attention.k[64 * 5 + 3] = numeric::kE4m3Nan;
    const EmulatedResult got = attention.emulated({}, {}), want = attention.reference();
    int64_t bad = 0;
    for (size_t i = 0; i < want.lse.size(); ++i) {
      EXPECT_EQ(std::isnan(got.lse[i]), std::isnan(want.lse[i])) << i;
      EXPECT_EQ(std::isnan(got.row_max[i]), std::isnan(want.row_max[i])) << i;
      EXPECT_EQ(std::isnan(got.out[i * 64]), std::isnan(want.out[i * 64])) << i;
      bad += std::isnan(want.lse[i]);
    }
    EXPECT_EQ(bad, 128);
  }
}

}  // namespace
}  // namespace fpsa::kernel::cuda
