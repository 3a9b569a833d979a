// Other codings of P: the kernels' own one gives the kernels' result, and the others differ where they should.
#include "fpsa/ops/p_coding.h"

#include <gtest/gtest.h>

#include <cmath>

#include "fpsa/ops/attention.h"
#include "tests/tolerance.h"

namespace fpsa::ops {
namespace {

using pattern::Grid;

struct Inputs {
  at::Tensor q, k, v;
};

Inputs random_inputs(int64_t tokens, at::ScalarType type) {
  at::manual_seed(5);
  const auto make = [&] { return at::randn({2, tokens, 3, 32}).to(type); };
  return {make(), make(), make()};
}

at::Tensor kernels_own(const Inputs& x, const Plan& plan) {
  AttentionOptions options;
  options.precision = Precision::kE4m3;
  return attention(x.q, x.k, x.v, plan, options).out;
}

double worst(const at::Tensor& got, const at::Tensor& want) {
  return (got - want).abs().max().item<double>();
}

double rms(const at::Tensor& got, const at::Tensor& want) {
  return (got - want).pow(2).mean().sqrt().item<double>();
}

TEST(AttentionOfCoding, At256ForwardItIsTheKernels) {
  for (const auto& [grid, window] : {std::pair{Grid{3, 8, 8}, Grid{1, 1, 2}}, {Grid{5, 6, 7}, pattern::kFullWindow}}) {
    const auto plan = plan_for(grid, {2, 4, 4}, {2, 2, 4}, "sta", window);
    const auto x = random_inputs(grid.volume(), at::kFloat);
    const auto want = kernels_own(x, *plan), got = attention_of_coding(x.q, x.k, x.v, *plan, {});
    const double top = x.v.abs().max().item<double>();
    EXPECT_EQ(got.sizes(), want.sizes());
    EXPECT_LT(worst(got, want), tolerance::kAttentionE4m3 * top);
    EXPECT_LT(rms(got, want), tolerance::kAttentionE4m3Rms * top);
    const auto low =
        attention_of_coding(x.q.to(at::kBFloat16), x.k.to(at::kBFloat16), x.v.to(at::kBFloat16), *plan, {});
    EXPECT_EQ(low.scalar_type(), at::kBFloat16);
  }
}

TEST(AttentionOfCoding, AMaskOfEachHeadCounts) {
  const Grid grid{4, 4, 8}, tile{2, 2, 4};
  const Plan plan(grid, tile, tile,
                  pattern::per_head({pattern::sliding_tile(grid, tile, {1, 1, 1}), pattern::dense(grid, tile),
                                     pattern::sliding_tile(grid, tile, {2, 1, 2})}));
  const auto x = random_inputs(grid.volume(), at::kFloat);
  EXPECT_LT(rms(attention_of_coding(x.q, x.k, x.v, plan, {}), kernels_own(x, plan)),
            tolerance::kAttentionE4m3Rms * x.v.abs().max().item<double>());
}

// The first key outweighs each other by 2^20 and has value 0; the others have 1. Forward their codes underflow, from
// the block of the first one on; backward all but that block's own were coded before it came.
TEST(AttentionOfCoding, ASinkAtTheFrontUnderflowsTheRestUnlessItComesLast) {
  const Grid grid{1, 16, 64};
  const auto plan = plan_for(grid, {1, 16, 64}, {1, 1, 1}, "dense", pattern::kFullWindow);
  const int64_t tokens = grid.volume(), dim = 16;
  auto q = at::zeros({1, tokens, 1, dim}), k = at::zeros_like(q), v = at::ones_like(q);
  q.select(3, 0).fill_(20 * std::log(2.0) * std::sqrt(static_cast<double>(dim)));
  k.select(3, 0).select(1, 0).fill_(1);
  v.select(1, 0).fill_(0);
  const double others = std::exp2(-20) * static_cast<double>(tokens - 1), exact = others / (1 + others);
  const auto forward = attention_of_coding(q, k, v, *plan, {256, false});
  const auto reverse = attention_of_coding(q, k, v, *plan, {256, true});
  EXPECT_EQ(forward.abs().max().item<double>(), 0);
  const double kept = exact * static_cast<double>(tokens - 64) / static_cast<double>(tokens - 1);
  EXPECT_NEAR(reverse.min().item<double>(), kept, tolerance::kAttentionE4m3Codes);
  EXPECT_NEAR(reverse.max().item<double>(), kept, tolerance::kAttentionE4m3Codes);
}

TEST(AttentionOfCoding, AnotherScaleGivesOtherCodesOfTheSameThing) {
  const Grid grid{3, 8, 8};
  const auto plan = plan_for(grid, {3, 4, 4}, {3, 4, 4}, "sta", {1, 2, 1});
  const auto x = random_inputs(grid.volume(), at::kFloat);
  const auto usual = attention_of_coding(x.q, x.k, x.v, *plan, {256, false});
  const auto wide = attention_of_coding(x.q, x.k, x.v, *plan, {448, false});
  EXPECT_FALSE(at::equal(usual, wide));
  EXPECT_LT(worst(usual, wide), 2 * tolerance::kAttentionE4m3 * x.v.abs().max().item<double>());
  // Halving the scale moves every code by one exponent: the same values, but for those that underflow.
  const auto half = attention_of_coding(x.q, x.k, x.v, *plan, {128, false});
  EXPECT_LT(rms(usual, half), tolerance::kAttentionE4m3Rms);
}

TEST(AttentionOfCoding, BadRequestsAreRefused) {
  const auto plan = plan_for({2, 4, 4}, {2, 2, 2}, {2, 2, 2}, "dense", pattern::kFullWindow);
  auto x = random_inputs(32, at::kFloat);
  EXPECT_THROW(attention_of_coding(x.q, x.k, x.v, *plan, {500, false}), c10::Error);
  EXPECT_THROW(attention_of_coding(x.q, x.k.slice(2, 0, 2), x.v, *plan, {}), c10::Error);
  EXPECT_THROW(attention_of_coding(x.q.slice(1, 0, 31), x.k, x.v, *plan, {}), c10::Error);
  x.q.requires_grad_(true);
  EXPECT_THROW(attention_of_coding(x.q, x.k, x.v, *plan, {}), c10::Error);
}

}  // namespace
}  // namespace fpsa::ops
