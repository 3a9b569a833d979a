// The source of attention_bwd_bf16_sm90a on emulated instructions against the CPU reference on the same inputs.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "fpsa/base/check.h"
#include "fpsa/numeric/bounds.h"
#include "tests/kernel/cuda/emulated_backward.h"
#include "tests/tolerance.h"

namespace fpsa::kernel::cuda {
namespace {

using testing_support::BackwardProblem;
using testing_support::BackwardResult;
using testing_support::EmulatedBackward;

// Tiles of 2x4x8 = 64 tokens with remainders: rows and columns straddle tiles, and some tiles are ragged.
BackwardProblem ragged(int64_t dim, bool coded = false) {
  BackwardProblem problem;
  problem.grid = {3, 7, 18};
  problem.tile = {2, 4, 8};
  problem.granularity = problem.tile;
  problem.mask = pattern::sliding_tile(problem.grid, problem.tile, {2, 1, 2});
  problem.dim = dim;
  problem.coded = coded;
  return problem;
}

emulation::Options seeded(int seed) {
  emulation::Options options;
  options.seed = static_cast<uint64_t>(seed);
  return options;
}

void expect_close(const char* name, const std::vector<float>& got, const std::vector<float>& want,
                  const std::vector<double>& bound, int64_t dim) {
  double error_squares = 0, squares = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double error = std::abs(static_cast<double>(got[i]) - want[i]);
    ASSERT_LE(error, tolerance::kAttentionF32 * bound[i])
        << name << " row " << i / static_cast<size_t>(dim) << " channel " << i % static_cast<size_t>(dim)
        << ": expected " << want[i] << ", got " << got[i];
    error_squares += error * error;
    squares += static_cast<double>(want[i]) * want[i];
  }
  EXPECT_LE(std::sqrt(error_squares), tolerance::kAttentionBwdRms * std::sqrt(squares)) << name;
}

void check(const BackwardProblem& problem, const EmulatedBackward::RunOptions& run = {}, int seeds = 2) {
  const EmulatedBackward backward(problem);
  const BackwardResult want = backward.reference();
  const EmulatedBackward::Bounds bounds = backward.bounds();
  for (int seed = 1; seed <= seeds; ++seed) {
    SCOPED_TRACE(join("dim ", problem.dim, problem.coded ? " coded" : "", " seed ", seed));
    const BackwardResult got = backward.emulated(run, seeded(seed));
    expect_close("d_q", got.q, want.q, bounds.q, problem.dim);
    expect_close("d_k", got.k, want.k, bounds.k, problem.dim);
    expect_close("d_v", got.v, want.v, bounds.v, problem.dim);
    if (testing::Test::HasFatalFailure()) return;
  }
}

TEST(AttentionBwdBf16Sm90a, MatchesTheReferenceOnRaggedTilesAndAWindow) {
  for (const int64_t dim : {64, 128})
    check(ragged(dim));
}

}  // namespace
}  // namespace fpsa::kernel::cuda
