#include "fpsa/ops/composed.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>

#include "fpsa/ops/attention.h"
#include "tests/tolerance.h"

namespace fpsa::ops {
namespace {

at::Tensor plain(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& key_mask) {
  auto s = at::matmul(q.transpose(1, 2), k.permute({0, 2, 3, 1})) / std::sqrt(static_cast<double>(q.size(3)));
  if (key_mask.defined()) s = s.masked_fill(key_mask.logical_not().view({k.size(0), 1, 1, k.size(1)}), -1e30);
  return at::matmul(at::softmax(s, -1), v.transpose(1, 2)).transpose(1, 2);
}

struct Case {
  int64_t b, lq, lk, h, d;
  bool mask;
};

class ComposedAttention : public testing::TestWithParam<Case> {};

TEST_P(ComposedAttention, MatchesPlainAttentionInValueAndGradient) {
  const auto [b, lq, lk, h, d, masked] = GetParam();
  at::manual_seed(7);
  auto leaf = [&](int64_t l) { return at::randn({b, l, h, d}, at::kDouble).to(at::kFloat).set_requires_grad(true); };
  const auto q = leaf(lq), k = leaf(lk), v = leaf(lk);
  at::Tensor key_mask;
  if (masked) {
    key_mask = at::rand({b, lk}) < 0.5;
    key_mask.select(1, 0).fill_(true);
  }
  const auto out = composed_attention(q, k, v, masked ? std::optional(key_mask) : std::nullopt);
  const auto g = at::randn_like(out);
  const auto grads = torch::autograd::grad({out}, {q, k, v}, {g});
  auto q64 = q.detach().to(at::kDouble).set_requires_grad(true),
       k64 = k.detach().to(at::kDouble).set_requires_grad(true);
  auto v64 = v.detach().to(at::kDouble).set_requires_grad(true);
  const auto expected = plain(q64, k64, v64, key_mask);
  const auto expected_grads = torch::autograd::grad({expected}, {q64, k64, v64}, {g.to(at::kDouble)});
  auto error = [](const at::Tensor& got, const at::Tensor& want) {
    return ((got - want).abs().max() / want.abs().max().clamp_min(1e-30)).item<double>();
  };
  EXPECT_LT(error(out, expected), tolerance::kComposedF32);
  for (int i = 0; i < 3; ++i)
    EXPECT_LT(error(grads[i], expected_grads[i]), tolerance::kComposedF32) << "gradient " << i;
}

TEST_P(ComposedAttention, F64IsF64Throughout) {
  const auto [b, lq, lk, h, d, masked] = GetParam();
  at::manual_seed(8);
  auto leaf = [&](int64_t l) { return at::randn({b, l, h, d}, at::kDouble).set_requires_grad(true); };
  const auto q = leaf(lq), k = leaf(lk), v = leaf(lk);
  const auto key_mask = masked ? at::arange(b * lk).view({b, lk}).remainder(3) != 1 : at::Tensor();
  const auto out = composed_attention(q, k, v, masked ? std::optional(key_mask) : std::nullopt);
  const auto expected = plain(q, k, v, key_mask), g = at::randn_like(expected);
  const auto grads = torch::autograd::grad({out}, {q, k, v}, {g});
  const auto expected_grads = torch::autograd::grad({expected}, {q, k, v}, {g});
  EXPECT_LT((out - expected).abs().max().item<double>(), tolerance::kComposedF64);
  for (size_t i = 0; i < 3; ++i)
    EXPECT_LT((grads[i] - expected_grads[i]).abs().max().item<double>(), tolerance::kComposedF64) << "gradient " << i;
}

TEST(ComposedAttentionEdges, ForwardHasTheBitsOfDenseAttention) {
  const auto q = at::randn({2, 70, 3, 16}).to(at::kBFloat16), k = at::randn({2, 50, 3, 16}).to(at::kBFloat16);
  const auto want = dense_attention(q, k, k).out;
  EXPECT_TRUE(at::equal(composed_attention(q, k, k), want));
  EXPECT_TRUE(at::equal(composed_attention(q.clone().set_requires_grad(true), k, k), want));
}

INSTANTIATE_TEST_SUITE_P(Shapes, ComposedAttention,
                         testing::Values(Case{1, 1, 1, 1, 8, false}, Case{2, 130, 130, 3, 16, false},
                                         Case{2, 33, 77, 2, 64, true}, Case{1, 1100, 700, 2, 32, false},
                                         Case{3, 40, 12, 1, 24, true}, Case{1, 20, 30, 2, 12, false}));

TEST(ComposedAttentionEdges, NoVisibleKeyGivesZeroOutputAndGradient) {
  auto q = at::randn({2, 5, 1, 8}).set_requires_grad(true), k = at::randn({2, 4, 1, 8}), v = at::randn({2, 4, 1, 8});
  auto key_mask = at::ones({2, 4}, at::kBool);
  key_mask.select(0, 1).fill_(false);
  const auto out = composed_attention(q, k, v, key_mask);
  EXPECT_EQ(out.select(0, 1).abs().max().item<double>(), 0.0);
  const auto grads = torch::autograd::grad({out.sum()}, {q});
  EXPECT_EQ(grads[0].select(0, 1).abs().max().item<double>(), 0.0);
}

TEST(ComposedAttentionEdges, WrongInputsAreNamed) {
  const auto q = at::randn({1, 4, 2, 8});
  EXPECT_THROW(composed_attention(q, at::randn({1, 4, 1, 8}), q), c10::Error);
  EXPECT_THROW(composed_attention(q, q.to(at::kBFloat16), q), c10::Error);
  EXPECT_THROW(composed_attention(q.to(at::kHalf), q.to(at::kHalf), q.to(at::kHalf)), c10::Error);
  EXPECT_THROW(composed_attention(q, q, q, at::ones({1, 5}, at::kBool)), c10::Error);
}

}  // namespace
}  // namespace fpsa::ops
