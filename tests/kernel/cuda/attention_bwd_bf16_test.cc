// The source of attention_bwd_bf16_sm90a on emulated instructions against the CPU reference on the same inputs.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "fpsa/base/check.h"
#include "fpsa/kernel/cuda/ptx/math.h"
#include "fpsa/numeric/bf16.h"
#include "fpsa/numeric/bounds.h"
#include "fpsa/numeric/e4m3.h"
#include "tests/kernel/cuda/emulated_attention.h"
#include "tests/kernel/cuda/emulated_backward.h"
#include "tests/kernel/cuda/emulated_cases.h"
#include "tests/tolerance.h"

namespace fpsa::kernel::cuda {
namespace {

using testing_support::BackwardProblem;
using testing_support::BackwardResult;
using testing_support::EmulatedBackward;
using testing_support::seeded;

BackwardProblem ragged(int64_t dim, bool coded = false) {
  auto problem = testing_support::ragged<BackwardProblem>(dim);
  problem.coded = coded;
  return problem;
}

void expect_close(const char* name, const std::vector<float>& got, const std::vector<float>& want,
                  const std::vector<double>& bound, int64_t dim, double rms) {
  double error_squares = 0, squares = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double error = std::abs(static_cast<double>(got[i]) - want[i]);
    ASSERT_LE(error, tolerance::kAttentionF32 * bound[i])
        << name << " row " << i / static_cast<size_t>(dim) << " channel " << i % static_cast<size_t>(dim)
        << ": expected " << want[i] << ", got " << got[i];
    error_squares += error * error;
    squares += static_cast<double>(want[i]) * want[i];
  }
  EXPECT_LE(std::sqrt(error_squares), rms * std::sqrt(squares)) << name;
}

void check(const BackwardProblem& problem, const EmulatedBackward::RunOptions& run = {}, int seeds = 2) {
  const EmulatedBackward backward(problem);
  const BackwardResult want = backward.reference();
  const EmulatedBackward::Bounds bounds = backward.bounds();
  const double rms = tolerance::kAttentionBwdRms * (problem.f16 ? 0x1p-11 / numeric::kBf16Epsilon : 1);
  for (int seed = 1; seed <= seeds; ++seed) {
    SCOPED_TRACE(join("dim ", problem.dim, problem.coded ? " coded" : "", " seed ", seed));
    const BackwardResult got = backward.emulated(run, seeded(seed));
    expect_close("d_q", got.q, want.q, bounds.q, problem.dim, rms);
    expect_close("d_k", got.k, want.k, bounds.k, problem.dim, rms);
    expect_close("d_v", got.v, want.v, bounds.v, problem.dim, rms);
    if (testing::Test::HasFatalFailure()) return;
  }
}

TEST(AttentionBwdBf16Sm90a, MatchesTheReferenceOnRaggedTilesAndAWindow) {
  for (const int64_t dim : {64, 128})
    for (const bool coded : {false, true})
      check(ragged(dim, coded));
}

TEST(AttentionBwdF16Sm90a, MatchesTheF32ReferenceToTheRoundingOfItsType) {
  for (const int64_t dim : {64, 128}) {
    BackwardProblem problem = ragged(dim);
    problem.f16 = true;
    check(problem, {}, 1);
    problem.rounded_gradient = false;
    check(problem, {}, 1);
  }
}

TEST(AttentionBwdF16Sm90a, TakesOutputAndGradientInF16) {
  for (const bool coded : {false, true}) {
    BackwardProblem problem = ragged(64, coded);
    problem.f16 = !coded;
    EmulatedBackward backward(problem);
    for (auto* values : {&backward.out, &backward.d_out})
      for (float& x : *values)
        x = ptx::value_of_f16(ptx::f16x2(x, 0) & 0xffff);
    const BackwardResult wide = backward.emulated({}, {}), narrow = backward.emulated({.given = OutType::kF16}, {});
    EXPECT_EQ(narrow.q, wide.q);
    EXPECT_EQ(narrow.k, wide.k);
    EXPECT_EQ(narrow.v, wide.v);
  }
}

TEST(AttentionBwdBf16Sm90a, MatchesTheReferenceOnAllTilesWithLargeScores) {
  for (const bool coded : {false, true}) {
    BackwardProblem problem = ragged(128, coded);
    problem.mask = pattern::dense(problem.grid, problem.tile);
    problem.spread = 3;
    check(problem, {}, 1);
  }
}

TEST(AttentionBwdBf16Sm90a, MatchesTheReferenceWithScalesThatChangeInsideASegment) {
  for (const int64_t dim : {64, 128}) {
    BackwardProblem problem = ragged(dim, true);
    problem.granularity = {1, 2, 4};
    check(problem, {}, 1);
  }
}

TEST(AttentionBwdBf16Sm90a, RoundsAGradientInF32Once) {
  for (const bool coded : {false, true}) {
    BackwardProblem problem = ragged(64, coded);
    problem.rounded_gradient = false;
    check(problem, {}, 1);
  }
}

TEST(AttentionBwdBf16Sm90a, TakesOutputAndGradientInBf16) {
  for (const bool coded : {false, true}) {
    EmulatedBackward backward(ragged(64, coded));
    for (float& x : backward.out)
      x = numeric::f32_from_bf16(numeric::bf16_from_f32(x));
    const BackwardResult wide = backward.emulated({}, {}), narrow = backward.emulated({.given = OutType::kBf16}, {});
    EXPECT_EQ(narrow.q, wide.q);
    EXPECT_EQ(narrow.k, wide.k);
    EXPECT_EQ(narrow.v, wide.v);
  }
}

// Some rows see nothing, some keys nobody sees; tiles of 64 tokens, four in all.
TEST(AttentionBwdBf16Sm90a, EveryHeadHasItsMaskAndWhatNothingSeesGetsZeros) {
  for (const bool coded : {false, true}) {
    BackwardProblem problem = ragged(64, coded);
    problem.grid = {2, 7, 18};
    problem.batch = 2;
    problem.heads = 2;
    const auto tiles = pattern::tiles_per_axis(problem.grid, problem.tile).volume();
    std::vector<uint8_t> visible = testing_support::visible_by_head(tiles);
    for (int64_t row = 0; row < tiles; ++row)
      visible[static_cast<size_t>((tiles + row) * tiles)] = 0;  // key tile 0 of head 1
    problem.mask = pattern::from_matrix(visible, 2, tiles, tiles);
    check(problem, {.blocks = 3}, 1);
    const EmulatedBackward backward(problem);
    const BackwardResult got = backward.emulated({}, {}), want = backward.reference();
    for (const auto& [mine, theirs] : {std::pair(&got.q, &want.q), {&got.k, &want.k}, {&got.v, &want.v}}) {
      size_t zeros = 0;
      for (size_t i = 0; i < theirs->size(); ++i) {
        if ((*theirs)[i] != 0) continue;
        ++zeros;
        EXPECT_EQ((*mine)[i], 0.0f) << i;
      }
      EXPECT_GE(zeros, 64u * 32u);
    }
  }
}

TEST(AttentionBwdBf16Sm90a, TakesAGridSmallerThanABlock) {
  for (const bool coded : {false, true}) {
    BackwardProblem problem = ragged(64, coded);
    problem.grid = {1, 1, 5};
    problem.mask = pattern::dense(problem.grid, problem.tile);
    check(problem, {}, 4);
  }
}

TEST(AttentionBwdBf16Sm90a, BitsDependNeitherOnTheSeedNorOnTheNumberOfBlocks) {
  for (const bool coded : {false, true}) {
    BackwardProblem problem = ragged(64, coded);
    problem.heads = 2;
    const EmulatedBackward backward(problem);
    const BackwardResult first = backward.emulated({.blocks = 1}, seeded(1));
    for (int blocks = 2; blocks <= 4; ++blocks) {
      const BackwardResult again = backward.emulated({.blocks = blocks}, seeded(blocks));
      EXPECT_EQ(again.q, first.q);
      EXPECT_EQ(again.k, first.k);
      EXPECT_EQ(again.v, first.v);
    }
  }
}

TEST(AttentionBwdBf16Sm90a, HalfPrecisionGradientsAreTheRoundedF32Gradients) {
  const EmulatedBackward backward(ragged(128));
  const BackwardResult wide = backward.emulated({}, {});
  for (const OutType type : {OutType::kBf16, OutType::kF16}) {
    const BackwardResult narrow = backward.emulated({.type = type}, {});
    for (const auto& [half, whole] : {std::pair(&narrow.q, &wide.q), {&narrow.k, &wide.k}, {&narrow.v, &wide.v}})
      testing_support::expect_rounded(*half, *whole, type);
  }
}

// With unit vectors as values the forward's output is the coded P, and with unit vectors as gradients d_v is.
TEST(AttentionBwdBf16Sm90a, CodesAreThoseOfTheForwardKernel) {
  constexpr size_t kTokens = 128;
  BackwardProblem problem = ragged(kTokens, true);
  problem.grid = {2, 8, 8};
  problem.mask = pattern::dense(problem.grid, problem.tile);
  testing_support::EmulatedProblem forward_problem;
  forward_problem.grid = problem.grid;
  forward_problem.tile = forward_problem.granularity = problem.tile;
  forward_problem.mask = problem.mask;
  forward_problem.dim = kTokens;
  testing_support::EmulatedAttention forward(forward_problem);
  EmulatedBackward backward(problem);
  const pattern::TileOrder order(problem.grid, problem.tile);
  std::ranges::fill(backward.v_scale, 1.0f);
  std::ranges::fill(backward.d_out, 0.0f);
  for (size_t i = 0; i < kTokens; ++i) {
    backward.d_out[static_cast<size_t>(order.to_raster()[i]) * kTokens + i] = 1.0f;
    for (size_t d = 0; d < kTokens; ++d)
      backward.v_codes[i * kTokens + d] = numeric::e4m3_from_f32(d == i ? 1.0f : 0.0f);
  }
  forward.q = backward.q_codes;
  forward.k = backward.k_codes;
  forward.v = backward.v_codes;
  forward.q_scale = backward.q_scale;
  forward.k_scale = backward.k_scale;
  forward.v_scale = backward.v_scale;
  const auto made = forward.emulated({}, {});
  backward.run_forward();
  backward.lse = made.lse;
  backward.row_max = made.row_max;
  const BackwardResult got = backward.emulated({}, {});
  std::vector<int> there, here;
  for (size_t i = 0; i < kTokens; ++i) {
    const auto row = static_cast<size_t>(order.to_raster()[i]);
    const double unit = 256 * std::exp(made.lse[row] - made.row_max[row] * std::numbers::ln2);
    for (size_t j = 0; j < kTokens; ++j) {
      const auto key = static_cast<size_t>(order.to_raster()[j]);
      there.push_back(numeric::e4m3_from_f32(static_cast<float>(made.out[row * kTokens + j] * unit)));
      here.push_back(numeric::e4m3_from_f32(static_cast<float>(got.v[key * kTokens + i] * unit)));
    }
  }
  EXPECT_EQ(here, there);
  EXPECT_GT(std::ranges::count_if(here, [](int code) { return code != 0; }),
            static_cast<int64_t>(kTokens * kTokens / 2));
}

}  // namespace
}  // namespace fpsa::kernel::cuda
