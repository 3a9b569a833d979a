// The sources of pack_bf16_sm90a and attention_fwd_bf16_sm90a on emulated instructions against the CPU reference on the
// same inputs.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "fpsa/base/check.h"
#include "fpsa/numeric/bounds.h"
#include "tests/kernel/cuda/emulated_bf16.h"
#include "tests/kernel/cuda/emulated_cases.h"
#include "tests/tolerance.h"

namespace fpsa::kernel::cuda {
namespace {

using pattern::Grid;
using testing_support::EmulatedBf16;
using testing_support::EmulatedProblem;
using testing_support::EmulatedResult;
using testing_support::ragged;
using testing_support::seeded;

void expect_close(const EmulatedBf16& attention, const EmulatedResult& got, const EmulatedResult& want) {
  const int64_t rows = attention.tokens(), dim = attention.problem().dim;
  const bool f16 = attention.problem().f16;
  for (int64_t job = 0; job < attention.problem().batch * attention.problem().heads; ++job) {
    const auto found = attention.magnitudes(job);
    const double value = found.value;
    // The bound of the CPU entries (tests/kernel/attention_fwd_test.cc): scores, exp2 within 3e-6, sums.
    const double relative = tolerance::kAttentionF32 *
                            (found.score_error + 3e-6 + static_cast<double>(found.keys + 2) * numeric::kF32Epsilon);
    double squares = 0;
    for (int64_t i = 0; i < rows; ++i) {
      const auto row = static_cast<size_t>(job * rows + i);
      if (std::isinf(want.lse[row])) {
        EXPECT_EQ(got.lse[row], want.lse[row]) << "row " << i;
        EXPECT_EQ(got.row_max[row], want.row_max[row]) << "row " << i;
      } else {
        ASSERT_NEAR(got.lse[row], want.lse[row], relative + 1e-6 * std::abs(want.lse[row])) << "row " << i;
        // The ceiling of a score beside an integer may be either.
        ASSERT_NEAR(got.row_max[row], want.row_max[row], 1) << "row " << i;
      }
      for (int64_t d = 0; d < dim; ++d) {
        const size_t at = row * static_cast<size_t>(dim) + static_cast<size_t>(d);
        const double error = std::abs(static_cast<double>(got.out[at]) - want.out[at]);
        // Of F16's P the kernel alone rounds, and P below 2^-14 to multiples of 2^-24, over a sum of 1/2 or more.
        const double rounding = f16 ? tolerance::kAttentionF16 + static_cast<double>(found.keys) * 0x1p-24
                                    : tolerance::kAttentionBf16;
        ASSERT_LE(error, (relative + rounding) * value)
            << "job " << job << " row " << i << " channel " << d << ": expected " << want.out[at] << ", got "
            << got.out[at];
        squares += error * error;
      }
    }
    const double rms = f16 ? tolerance::kAttentionF16Rms : tolerance::kAttentionBf16Rms;
    EXPECT_LE(std::sqrt(squares / static_cast<double>(rows * dim)), (rms + relative) * value);
  }
}

void check(const EmulatedProblem& problem, const EmulatedBf16::RunOptions& run = {}, int seeds = 2) {
  const EmulatedBf16 attention(problem);
  const EmulatedResult want = attention.reference();
  for (int seed = 1; seed <= seeds; ++seed) {
    SCOPED_TRACE(join("seed ", seed));
    expect_close(attention, attention.emulated(run, seeded(seed)), want);
    if (testing::Test::HasFatalFailure()) return;
  }
}

TEST(PackBf16Sm90a, BringsEveryRowToItsSlotAndZerosElsewhere) {
  for (const int64_t dim : {64, 128}) {
    EmulatedProblem problem = ragged(dim);
    problem.batch = 2;
    problem.heads = 3;
    EmulatedBf16 attention(problem);
    int64_t absent = 0;
    for (int which = 0; which < 3; ++which) {
      const uint16_t* packed = attention.packed(which);
      for (int64_t batch = 0; batch < 2; ++batch)
        for (int64_t head = 0; head < 3; ++head)
          for (const int32_t position : attention.layout().position_of_slot())
            for (int64_t d = 0; d < dim; ++d, ++packed) {
              const uint16_t want =
                  position < 0 ? uint16_t{0} : attention.at(batch, attention.raster(position), which, head, d);
              ASSERT_EQ(*packed, want) << "which " << which << " head " << head << " position " << position;
              absent += position < 0;
            }
      EXPECT_EQ(packed, attention.packed(which) + attention.packed_elements());
    }
    EXPECT_GT(absent, 0);
  }
}

TEST(AttentionFwdBf16Sm90a, MatchesTheReferenceOnRaggedTilesAndAWindow) {
  for (const int64_t dim : {64, 128}) {
    SCOPED_TRACE(join("dim ", dim));
    check(ragged(dim));
  }
}

TEST(AttentionFwdF16Sm90a, MatchesTheF32ReferenceToTheRoundingOfItsType) {
  for (const int64_t dim : {64, 128}) {
    SCOPED_TRACE(join("dim ", dim));
    EmulatedProblem problem = ragged(dim);
    problem.f16 = true;
    check(problem, {}, 1);
    problem.mask = pattern::dense(problem.grid, problem.tile);
    problem.spread = 3;
    check(problem, {}, 1);
  }
}

TEST(AttentionFwdF16Sm90a, BitsDependNeitherOnTheSeedNorOnTheNumberOfBlocks) {
  testing_support::expect_the_same_bits_always<EmulatedBf16>(/*f16=*/true);
}

TEST(AttentionFwdBf16Sm90a, MatchesTheReferenceOnAllTilesWithLargeScores) {
  for (const int64_t dim : {64, 128}) {
    EmulatedProblem problem = ragged(dim);
    problem.mask = pattern::dense(problem.grid, problem.tile);
    problem.spread = 3;
    check(problem);
  }
}

TEST(AttentionFwdBf16Sm90a, EveryHeadHasItsMaskAndSomeRowsSeeNothing) {
  EmulatedProblem problem = ragged(64);
  problem.grid = {2, 7, 18};
  problem.batch = 2;
  problem.heads = 2;
  const auto tiles = pattern::tiles_per_axis(problem.grid, problem.tile).volume();
  problem.mask = pattern::from_matrix(testing_support::visible_by_head(tiles), 2, tiles, tiles);
  check(problem, {.blocks = 3});
  const EmulatedBf16 attention(problem);
  EXPECT_GT(std::ranges::count(attention.reference().lse, -std::numeric_limits<float>::infinity()), 0);
}

TEST(AttentionFwdBf16Sm90a, ClustersGiveTheBitsOfSingleBlocks) {
  testing_support::expect_the_bits_of_single_blocks<EmulatedBf16>();
}

TEST(AttentionFwdF16Sm90a, ClustersGiveTheBitsOfSingleBlocks) {
  EmulatedProblem problem = testing_support::problems_with_pairs()[0];
  problem.f16 = true;
  const EmulatedBf16 attention(problem);
  const auto single = attention.emulated({}, {}), got = attention.emulated({.blocks = 4, .cluster = 2}, {});
  EXPECT_EQ(got.out, single.out);
  EXPECT_EQ(got.lse, single.lse);
}

TEST(AttentionFwdBf16Sm90a, TakesAGridSmallerThanABlock) {
  EmulatedProblem problem = ragged(64);
  problem.grid = {1, 1, 5};
  problem.mask = pattern::dense(problem.grid, problem.tile);
  check(problem, {}, 4);
}

TEST(AttentionFwdBf16Sm90a, BitsDependNeitherOnTheSeedNorOnTheNumberOfBlocks) {
  testing_support::expect_the_same_bits_always<EmulatedBf16>();
}

TEST(AttentionFwdBf16Sm90a, HalfPrecisionOutputIsTheRoundedF32Output) {
  testing_support::expect_half_precision_is_rounded<EmulatedBf16>();
}

TEST(AttentionFwdBf16Sm90a, ANanOrInfinityInAKeyReachesTheRowsThatSeeIt) {
  for (const bool nan : {false, true}) {
    EmulatedProblem problem = ragged(64);
    problem.grid = {2, 4, 32};  // 4 tiles of 64
    problem.mask = pattern::sliding_tile(problem.grid, problem.tile, {1, 1, 2});
    EmulatedBf16 attention(problem);
    attention.at(0, attention.raster(5), 1, 0, 3) = nan ? 0x7fc0 : 0x7f80;
    attention.pack();
    const EmulatedResult got = attention.emulated({}, {}), want = attention.reference();
    int64_t bad = 0;
    for (size_t i = 0; i < want.lse.size(); ++i) {
      EXPECT_EQ(std::isnan(got.lse[i]), std::isnan(want.lse[i])) << i;
      EXPECT_EQ(std::isnan(got.out[i * 64]), std::isnan(want.out[i * 64])) << i;
      bad += std::isnan(want.lse[i]);
    }
    // Where the infinity makes a score -inf, the key takes no part.
    EXPECT_GT(bad, 0);
    EXPECT_EQ(bad == 128, nan);
  }
}

}  // namespace
}  // namespace fpsa::kernel::cuda
