#include "fpsa/ops/attention_grad.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <limits>
#include <numbers>

#include "fpsa/ops/quantize.h"
#include "tests/error_of.h"
#include "tests/tolerance.h"

namespace fpsa::ops {
namespace {

using pattern::Grid;

struct Inputs {
  at::Tensor q, k, v, d_out;
};

Inputs random_inputs(int64_t b, int64_t lq, int64_t lk, int64_t h, int64_t d, at::ScalarType type) {
  at::manual_seed(11);
  auto make = [&](int64_t l) { return at::randn({b, l, h, d}).to(type); };
  return {make(lq), make(lk), make(lk), make(lq)};
}

// [heads, L, L] bool in raster order from the plan's mask.
at::Tensor token_mask(const Plan& plan, int64_t heads) {
  const auto& order = plan.order();
  auto tiled = at::zeros({heads, plan.tokens(), plan.tokens()}, at::kBool);
  for (int64_t h = 0; h < heads; ++h)
    for (int64_t row = 0; row < plan.mask().rows; ++row)
      for (const int32_t col : plan.mask().visible(h, row))
        tiled[h]
            .slice(0, order.tile_begin(row), order.tile_begin(row + 1))
            .slice(1, order.tile_begin(col), order.tile_begin(col + 1))
            .fill_(true);
  const auto to_raster = at::tensor(at::ArrayRef<int32_t>(order.to_raster())).to(at::kLong);
  auto mask = at::zeros_like(tiled);
  for (int64_t h = 0; h < heads; ++h)
    mask[h].index_put_({to_raster.unsqueeze(1), to_raster.unsqueeze(0)}, tiled[h]);
  return mask;
}

std::vector<at::Tensor> gradients(const at::Tensor& out, const Inputs& x) {
  return torch::autograd::grad({out}, {x.q, x.k, x.v}, {x.d_out});
}

Inputs leaves(const Inputs& x) {
  auto leaf = [](const at::Tensor& t) { return t.detach().clone().set_requires_grad(true); };
  return {leaf(x.q), leaf(x.k), leaf(x.v), x.d_out};
}

// Gradients of masked attention in F64, by torch.
std::vector<at::Tensor> expected(const Inputs& x, const at::Tensor& mask) {
  const Inputs wide = leaves({x.q.to(at::kDouble), x.k.to(at::kDouble), x.v.to(at::kDouble), x.d_out.to(at::kDouble)});
  auto heads = [](const at::Tensor& t) { return t.transpose(1, 2); };
  auto s = at::matmul(heads(wide.q), heads(wide.k).transpose(2, 3)) / std::sqrt(static_cast<double>(x.q.size(3)));
  if (mask.defined()) s = s.masked_fill(mask.logical_not(), -1e30);
  auto p = at::softmax(s, -1);
  if (mask.defined()) p = p * mask;  // a row that sees nothing
  return gradients(at::matmul(p, heads(wide.v)).transpose(1, 2), wide);
}

double relative_rms(const at::Tensor& got, const at::Tensor& want) {
  return ((got.to(at::kDouble) - want).norm() / want.norm()).item<double>();
}

void expect_close(const std::vector<at::Tensor>& got, const std::vector<at::Tensor>& want, double allowed) {
  for (size_t i = 0; i < 3; ++i)
    EXPECT_LT(relative_rms(got[i], want[i]), allowed) << "gradient " << i;
}

double allowed(at::ScalarType type) {
  return type == at::kFloat ? tolerance::kComposedF32 : tolerance::kOpsGradRms;
}

TEST(AttentionGrad, SparseGradientsMatchMaskedAttentionInF64) {
  for (const auto& [grid, tile, window] : {std::tuple{Grid{3, 8, 8}, Grid{3, 4, 4}, Grid{1, 1, 2}},
                                           {Grid{5, 6, 7}, Grid{2, 4, 4}, Grid{2, 1, 1}},
                                           {Grid{2, 5, 3}, Grid{6, 8, 8}, Grid{1, 1, 1}}}) {
    const auto plan = plan_for(grid, tile, tile, "sta", window);
    for (const auto type : {at::kFloat, at::kBFloat16}) {
      const Inputs x = leaves(random_inputs(2, grid.volume(), grid.volume(), 3, 24, type));
      const auto result = differentiable_attention(x.q, x.k, x.v, plan);
      const auto got = gradients(result.out, x);
      EXPECT_EQ(got[1].scalar_type(), type);
      EXPECT_FALSE(result.lse.requires_grad());
      expect_close(got, expected(x, token_mask(*plan, 1)), allowed(type));
    }
  }
}

TEST(AttentionGrad, PerHeadMasksAndEmptyRows) {
  const Grid grid{1, 4, 8}, tile{1, 2, 4};
  // Head 0: tile 1 sees nothing and nothing sees tile 3. Head 1: uneven.
  const std::vector<uint8_t> visible = {1, 1, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 1, 0, 0,  //
                                        1, 1, 1, 1, 0, 1, 0, 0, 0, 0, 1, 1, 1, 0, 0, 1};
  const auto plan = std::make_shared<const Plan>(grid, tile, tile, pattern::from_matrix(visible, 2, 4, 4));
  const Inputs x = leaves(random_inputs(2, 32, 32, 2, 16, at::kFloat));
  const auto got = gradients(differentiable_attention(x.q, x.k, x.v, plan).out, x);
  expect_close(got, expected(x, token_mask(*plan, 2)), tolerance::kComposedF32);
}

TEST(AttentionGrad, CrossAttentionMatchesF64) {
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    const Inputs x = leaves(random_inputs(2, 150, 77, 3, 64, type));
    expect_close(gradients(differentiable_dense_attention(x.q, x.k, x.v).out, x), expected(x, {}), allowed(type));
  }
}

TEST(AttentionGrad, LayoutsAndStridesGiveTheSameBits) {
  const Grid grid{2, 8, 8};
  const auto plan = plan_for(grid, {2, 4, 4}, {2, 4, 4}, "sta", {1, 1, 2});
  const Inputs x = leaves(random_inputs(2, 128, 128, 3, 32, at::kBFloat16));
  const auto want = gradients(differentiable_attention(x.q, x.k, x.v, plan).out, x);
  AttentionOptions heads_first;
  heads_first.heads_first = true;
  auto swapped = [](const at::Tensor& t) { return t.transpose(1, 2); };
  const auto out = differentiable_attention(swapped(x.q), swapped(x.k), swapped(x.v), plan, heads_first).out;
  const auto got = gradients(swapped(out), x);
  for (size_t i = 0; i < 3; ++i)
    EXPECT_TRUE(at::equal(got[i], want[i])) << "gradient " << i;
  // A gradient without strides of its own, as sum() sends it.
  const auto summed = torch::autograd::grad({differentiable_attention(x.q, x.k, x.v, plan).out.sum()}, {x.q});
  Inputs ones = x;
  ones.d_out = at::ones_like(x.d_out);
  EXPECT_TRUE(at::equal(summed[0], gradients(differentiable_attention(x.q, x.k, x.v, plan).out, ones)[0]));
}

TEST(AttentionGrad, BytesDoNotDependOnTheNumberOfThreads) {
  const Grid grid{5, 8, 9};
  const auto plan = plan_for(grid, {2, 4, 4}, {1, 2, 2}, "sta", {3, 1, 2});
  const Inputs x = leaves(random_inputs(1, grid.volume(), grid.volume(), 3, 64, at::kBFloat16));
  const int threads = at::get_num_threads();
  for (const auto precision : {Precision::kNone, Precision::kE4m3}) {
    AttentionOptions options;
    options.precision = precision;
    auto run = [&](int count) {
      at::set_num_threads(count);
      return gradients(differentiable_attention(x.q, x.k, x.v, plan, options).out, x);
    };
    const auto one = run(1), four = run(4);
    for (size_t i = 0; i < 3; ++i)
      EXPECT_TRUE(at::equal(one[i], four[i])) << "gradient " << i;
  }
  at::set_num_threads(threads);
}

// The formulas of the contract in F64 torch, on the codes that the operator makes.
struct Coded {
  at::Tensor q, k, v, p, p_coded;  // [B,H,L,*], raster order

  // mask [heads or 1, L, L] of what is visible; every row sees something.
  Coded(const Inputs& x, const Plan& plan, const at::Tensor& mask) {
    const auto to_raster = at::tensor(at::ArrayRef<int32_t>(plan.order().to_raster())).to(at::kLong);
    auto real = [&](const Quantized& codes, const at::Tensor& scale) {
      const auto values = codes.codes.view(at::kFloat8_e4m3fn).to(at::kDouble) * scale;
      return at::zeros_like(values).index_copy_(2, to_raster, values);
    };
    const auto q_codes = quantize_tokens(x.q, plan), k_codes = quantize_tokens(x.k, plan);
    const auto v_codes = quantize_channels(x.v, plan);
    q = real(q_codes, q_codes.token_scale.unsqueeze(3));
    k = real(k_codes, k_codes.token_scale.unsqueeze(3));
    v = real(v_codes, v_codes.scales.unsqueeze(2));
    const auto all =
        at::matmul(q, k.transpose(2, 3)) * (std::numbers::log2e / std::sqrt(static_cast<double>(q.size(3))));
    const auto s = all.masked_fill(mask.logical_not(), -std::numeric_limits<double>::infinity());
    const auto weights = at::exp2(s - s.amax(-1, true).ceil());
    const auto sum = weights.sum(-1, true);
    p = weights / sum;
    p_coded = (weights * 256).to(at::kFloat).to(at::kFloat8_e4m3fn).to(at::kDouble) / 256 / sum;
  }
  // dS with D from the output of these probabilities.
  at::Tensor d_scores(const at::Tensor& d_out, const at::Tensor& probabilities) const {
    const auto delta = (d_out * at::matmul(probabilities, v)).sum(-1, true);
    return p * (at::matmul(d_out, v.transpose(2, 3)) - delta);
  }
};

TEST(AttentionGrad, E4m3FollowsTheFormulasOnTheSameCodes) {
  const Grid grid{3, 6, 10};
  AttentionOptions options;
  options.precision = Precision::kE4m3;
  // Head 0 and head 1 see different tiles, and no tile of either is seen by those that it sees.
  const std::vector<uint8_t> visible = {1, 1, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 1, 1, 0, 0,  //
                                        0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 1,  //
                                        0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0,  //
                                        0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 1, 1, 1, 1, 0};
  const auto uneven =
      std::make_shared<const Plan>(grid, Grid{3, 4, 4}, Grid{1, 2, 4}, pattern::from_matrix(visible, 2, 6, 6));
  for (const auto& plan : {plan_for(grid, {3, 4, 4}, {3, 4, 4}, "dense", {1, 1, 1}),
                           plan_for(grid, {3, 4, 4}, {1, 2, 4}, "dense", {1, 1, 1}),
                           plan_for(grid, {3, 4, 4}, {3, 4, 4}, "sta", {1, 1, 2}), uneven}) {
    for (const auto type : {at::kFloat, at::kBFloat16}) {
      const Inputs x = leaves(random_inputs(2, grid.volume(), grid.volume(), 2, 64, type));
      const auto got = gradients(differentiable_attention(x.q, x.k, x.v, plan, options).out, x);
      const Coded coded({x.q.detach(), x.k.detach(), x.v.detach(), {}}, *plan, token_mask(*plan, 2));
      const auto d_out = x.d_out.to(at::kDouble).transpose(1, 2);
      const auto d_s = coded.d_scores(d_out, coded.p) / 8.0;
      const std::vector<at::Tensor> want = {at::matmul(d_s, coded.k).transpose(1, 2),
                                            at::matmul(d_s.transpose(2, 3), coded.q).transpose(1, 2),
                                            at::matmul(coded.p_coded.transpose(2, 3), d_out).transpose(1, 2)};
      expect_close(got, want, tolerance::kOpsGradRms);
    }
  }
}

// Where all keys share the value of a channel, d_q of that channel is the row sum of dS times a constant: zero with
// the output of unrounded P, a bias with the output itself.
TEST(AttentionGrad, TheExactOutputKeepsRowsOfDsAtZero) {
  const Grid grid{3, 8, 8};
  const auto plan = plan_for(grid, {3, 8, 8}, {3, 8, 8}, "dense", {1, 1, 1});
  Inputs x = random_inputs(1, 192, 192, 2, 64, at::kFloat);
  x.k.select(3, 0).fill_(4.0);
  x.q.mul_(4.0);  // few keys per query, so that roundings of P do not average out
  AttentionOptions options;
  options.precision = Precision::kE4m3;
  auto forward = attention(x.q, x.k, x.v, *plan, saving(options));
  const auto good = attention_backward(x.d_out, x.q, x.k, x.v, forward, *plan, options);
  forward.exact = forward.out;
  const auto biased = attention_backward(x.d_out, x.q, x.k, x.v, forward, *plan, options);
  auto row_sums = [](const AttentionGradients& grads) { return grads.q.select(3, 0).norm().item<double>(); };
  EXPECT_LT(row_sums(good), 0.4 * row_sums(biased));
  const Coded coded(x, *plan, token_mask(*plan, 2));
  const auto d_out = x.d_out.to(at::kDouble).transpose(1, 2);
  const auto want = at::matmul(coded.d_scores(d_out, coded.p) / 8.0, coded.k).transpose(1, 2);
  EXPECT_LT(relative_rms(good.q, want), 0.4 * relative_rms(biased.q, want));
}

TEST(AttentionGrad, RefusalsSayWhy) {
  const Inputs x = leaves(random_inputs(1, 20, 20, 2, 16, at::kFloat));
  const auto out = differentiable_dense_attention(x.q, x.k, x.v).out;
  auto says = [](const std::string& text, const auto& fn) {
    const auto message = error_of<std::exception>(fn);
    EXPECT_NE(message.find(text), std::string::npos) << message;
  };
  says("no second derivative", [&] { torch::autograd::grad({out.sum()}, {x.q}, {}, std::nullopt, true); });
  AttentionOptions into;
  into.out = at::empty_like(x.q);
  says("options.out", [&] { differentiable_dense_attention(x.q, x.k, x.v, into); });
  const auto plan = plan_for({1, 4, 5}, {1, 2, 2}, {1, 2, 2}, "dense", {1, 1, 1});
  AttentionOptions coded;
  coded.precision = Precision::kInt8;
  says("INT8 attention has no gradients", [&] { differentiable_attention(x.q, x.k, x.v, plan, coded); });
  coded.precision = Precision::kE4m3;
  coded.smooth_keys = true;
  says("smooth_keys is for inference", [&] { differentiable_attention(x.q, x.k, x.v, plan, coded); });
  const auto q = x.q.detach();
  says("lse must be", [&] { dense_attention_backward(q, q, q, q, dense_attention(q, q, q)); });
  says("differentiable_attention", [&] { dense_attention(x.q, x.k, x.v); });
}

TEST(AttentionGrad, EmptyTensorsAreLegal) {
  Inputs x = leaves(random_inputs(1, 5, 0, 2, 8, at::kFloat));
  const auto got = gradients(differentiable_dense_attention(x.q, x.k, x.v).out, x);
  EXPECT_EQ(got[0].abs().max().item<double>(), 0.0);
  EXPECT_EQ(got[1].numel(), 0);
}

}  // namespace
}  // namespace fpsa::ops
