#include "fpsa/train/optimizer.h"

#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "fpsa/base/check.h"

namespace fpsa::train {
namespace {

at::Tensor leaf(at::IntArrayRef sizes, uint64_t seed) {
  auto generator = at::detail::createCPUGenerator(seed);
  return at::randn(sizes, generator, at::kFloat).requires_grad_(true);
}

bool by_dimension(const std::string&, const at::Tensor& weight) {
  return weight.dim() >= 2;
}

// Gradient of 0.5 |w - target|^2.
void pull(const at::Tensor& weight, double target) {
  (0.5 * (weight - target).square().sum()).backward();
}

TEST(Orthogonalise, SingularValuesComeNearOne) {
  for (const auto& shape : {std::vector<int64_t>{3, 24, 40}, {2, 40, 24}, {1, 16, 16}}) {
    auto generator = at::detail::createCPUGenerator(7);
    const at::Tensor x = at::randn(shape, generator, at::kFloat);
    const at::Tensor y = orthogonalise(x).to(at::kDouble);
    ASSERT_EQ(y.sizes(), x.sizes());
    // Squared singular values are the eigenvalues of the smaller Gram matrix; its trace and its square's trace bound
    // their spread without a decomposition: mean s^2 and mean s^4.
    const at::Tensor small = shape[1] <= shape[2] ? y : y.transpose(1, 2);
    const at::Tensor gram = at::bmm(small, small.transpose(1, 2));
    const double rank = static_cast<double>(gram.size(1));
    for (int64_t i = 0; i < gram.size(0); ++i) {
      const double s2 = gram[i].trace().item<double>() / rank;
      const double s4 = gram[i].square().sum().item<double>() / rank;
      EXPECT_GT(s2, 0.6);
      EXPECT_LT(s2, 1.3);
      EXPECT_LT(s4 / (s2 * s2), 1.15);  // all alike would be 1
    }
  }
}

TEST(Orthogonalise, KeepsTheSingularVectors) {
  const at::Tensor x = at::diag(at::tensor({3.0f, 1.0f, 0.3f})).unsqueeze(0);
  const at::Tensor y = orthogonalise(x)[0];
  EXPECT_LT((y - at::diag(y.diagonal())).abs().max().item<float>(), 1e-2);
  EXPECT_GT(y.diagonal().min().item<float>(), 0.6);
}

TEST(Optimizer, FollowsAdamWByHand) {
  const at::Tensor w = at::tensor({1.0f, -2.0f}).requires_grad_(true);
  OptimizerConfig config;
  config.clip_norm = 0;
  config.weight_decay = 0.1;
  config.beta1 = 0.9, config.beta2 = 0.99;
  Optimizer optimizer({{"w", w}}, by_dimension, config);
  double weight[2] = {1, -2}, mean[2] = {}, square[2] = {};
  for (int step = 1; step <= 3; ++step) {
    pull(w, 0.5);
    optimizer.step(1e-2);
    for (int i = 0; i < 2; ++i) {
      const double g = weight[i] - 0.5;
      weight[i] *= 1 - 1e-2 * 0.1;
      mean[i] = 0.9 * mean[i] + 0.1 * g;
      square[i] = 0.99 * square[i] + 0.01 * g * g;
      weight[i] -=
          1e-2 * (mean[i] / (1 - std::pow(0.9, step))) / (std::sqrt(square[i] / (1 - std::pow(0.99, step))) + 1e-8);
      EXPECT_NEAR(w[i].item<double>(), weight[i], 1e-6) << "step " << step;
    }
  }
}

TEST(Optimizer, ClipsByTheGlobalNormAndReportsIt) {
  const at::Tensor a = at::zeros({3}).requires_grad_(true), b = at::zeros({4}).requires_grad_(true);
  Optimizer optimizer({{"a", a}, {"b", b}}, by_dimension, {});
  pull(a, 2.0);
  pull(b, -1.0);
  EXPECT_NEAR(optimizer.step(1e-3), 4.0, 1e-6);  // sqrt(3*4 + 4*1)
  EXPECT_FALSE(a.grad().defined());
}

TEST(Optimizer, MovesMatricesAndConvolutionsDownhill) {
  const at::Tensor matrix = leaf({8, 12}, 1), conv = leaf({8, 4, 3, 3, 3}, 2);
  Optimizer optimizer({{"matrix", matrix}, {"conv", conv}}, by_dimension, {});
  const auto distance = [&] { return (matrix.square().sum() + conv.square().sum()).item<double>(); };
  const double before = distance();
  for (int i = 0; i < 60; ++i) {  // a step moves entries by about 0.2 times the learning rate
    pull(matrix, 0.0);
    pull(conv, 0.0);
    optimizer.step(0.1);
  }
  EXPECT_LT(distance(), 0.2 * before);
}

TEST(Optimizer, LeavesEverythingAloneWhenTheNormIsNotFinite) {
  const at::Tensor w = at::ones({2}).requires_grad_(true);
  Optimizer optimizer({{"w", w}}, by_dimension, {});
  (w * std::numeric_limits<float>::infinity()).sum().backward();
  EXPECT_FALSE(std::isfinite(optimizer.step(0.1)));
  EXPECT_TRUE(at::equal(w.detach(), at::ones({2})));
  EXPECT_TRUE(at::equal(optimizer.averaged().at("w"), at::ones({2})));
}

TEST(Optimizer, AParameterWithoutGradientStays) {
  const at::Tensor still = leaf({6, 6}, 3), moved = leaf({5}, 4);
  const at::Tensor before = still.detach().clone();
  OptimizerConfig config;
  Optimizer optimizer({{"still", still}, {"moved", moved}}, by_dimension, config);
  pull(moved, 0.0);
  optimizer.step(0.1);
  EXPECT_TRUE(at::equal(still.detach(), before));
}

TEST(Optimizer, AverageDecaysTowardsTheWeights) {
  const at::Tensor w = at::zeros({1}).requires_grad_(true);
  OptimizerConfig config;
  config.ema = 0.75;
  Optimizer optimizer({{"w", w}}, by_dimension, config);
  pull(w, 100.0);
  optimizer.step(1.0);
  EXPECT_NEAR(optimizer.averaged().at("w").item<double>(), 0.25 * w.item<double>(), 1e-6);
  const double weight = w.item<double>();
  optimizer.swap_averaged();
  EXPECT_NEAR(w.item<double>(), 0.25 * weight, 1e-6);
  optimizer.swap_averaged();
  EXPECT_DOUBLE_EQ(w.item<double>(), weight);
}

TEST(Optimizer, StateRoundTripContinuesBitForBit) {
  const auto run = [](int steps_before, int steps_after) {
    nn::TensorMap parameters = {{"m", leaf({6, 10}, 5)}, {"v", leaf({7}, 6)}};
    nn::TensorMap saved, weights;
    {
      Optimizer first(parameters, by_dimension, {});
      for (int i = 0; i < steps_before; ++i) {
        for (const auto& [name, w] : parameters)
          pull(w, 0.3);
        first.step(1e-2);
      }
      for (const auto& [name, t] : first.state())
        saved.emplace(name, t.clone());
    }
    Optimizer second(parameters, by_dimension, {});
    second.load_state(saved);
    for (int i = 0; i < steps_after; ++i) {
      for (const auto& [name, w] : parameters)
        pull(w, 0.3);
      second.step(1e-2);
    }
    return std::pair(parameters.at("m").detach().clone(), second.averaged().at("v").clone());
  };
  const auto [m_split, v_split] = run(3, 3);
  const auto [m_whole, v_whole] = run(6, 0);
  EXPECT_TRUE(at::equal(m_split, m_whole));
  EXPECT_TRUE(at::equal(v_split, v_whole));
}

TEST(Optimizer, NamesWhatACheckpointLacks) {
  Optimizer optimizer({{"w", leaf({2}, 1)}}, by_dimension, {});
  try {
    optimizer.load_state({});
    FAIL() << "an empty state was accepted";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("adam.mean.w"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace fpsa::train
