#include "fpsa/nn/recompute.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

namespace fpsa::nn {
namespace {

struct Counted {
  at::Tensor weight = at::tensor({2.0, -3.0}).requires_grad_(true), frozen = at::tensor({5.0, 7.0});
  int calls = 0;
  std::function<at::Tensor(const std::vector<at::Tensor>&)> run = [this](const std::vector<at::Tensor>& in) {
    ++calls;
    return (in[0] * weight).exp() * in[1] + frozen;
  };
};

TEST(Recomputed, HasTheGradientsOfWhatItRunsAndRunsItTwice) {
  const at::Tensor x = at::tensor({0.25, -0.5}).requires_grad_(true), y = at::tensor({1.5, 2.5});
  Counted plain, again;
  plain.run({x, y}).sum().backward();
  const at::Tensor dx = x.grad().clone();
  x.mutable_grad().reset();
  const at::Tensor out = recomputed(again.run, {x, y}, {again.weight, again.frozen});
  EXPECT_EQ(again.calls, 1);
  out.sum().backward();
  EXPECT_EQ(again.calls, 2);
  EXPECT_TRUE(at::equal(x.grad(), dx));
  EXPECT_TRUE(at::equal(again.weight.grad(), plain.weight.grad()));
  EXPECT_FALSE(y.grad().defined());
}

TEST(Recomputed, NeedsNoGradientOfItsInputs) {
  const at::Tensor x = at::tensor({0.25, -0.5}), y = at::tensor({1.5, 2.5});
  Counted plain, again;
  plain.run({x, y}).sum().backward();
  recomputed(again.run, {x, y}, {again.weight}).sum().backward();
  EXPECT_TRUE(at::equal(again.weight.grad(), plain.weight.grad()));
}

TEST(Recomputed, IsThePlainCallWithoutAutogradAndRefusesASecondDerivative) {
  const at::Tensor x = at::tensor({0.25, -0.5}).requires_grad_(true), y = at::tensor({1.5, 2.5});
  Counted counted;
  {
    const at::NoGradGuard no_grad;
    EXPECT_FALSE(recomputed(counted.run, {x, y}, {counted.weight}).requires_grad());
  }
  EXPECT_EQ(counted.calls, 1);
  const at::Tensor out = recomputed(counted.run, {x, y}, {counted.weight}).sum();
  EXPECT_THROW(torch::autograd::grad({out}, {x}, {}, /*retain_graph=*/true, /*create_graph=*/true), c10::Error);
}

}  // namespace
}  // namespace fpsa::nn
