#include "fpsa/models/wan/dit_fused.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <functional>
#include <vector>

#include "fpsa/models/wan/rope.h"

namespace fpsa::models::wan {
namespace {

struct Randoms {
  at::Generator generator = at::detail::createCPUGenerator(9);
  at::Tensor operator()(std::vector<int64_t> shape, at::ScalarType dtype = at::kFloat) {
    return at::randn(shape, generator, at::kFloat).to(dtype);
  }
};

// Largest difference over the largest expected value.
double error(const at::Tensor& got, const at::Tensor& expected) {
  EXPECT_EQ(got.sizes(), expected.sizes());
  EXPECT_EQ(got.scalar_type(), expected.scalar_type());
  at::Tensor g = got.detach().to(at::kDouble), e = expected.detach().to(at::kDouble);
  return ((g - e).abs().max() / e.abs().max()).item<double>();
}

// F32: sums of up to a few thousand terms in another order. BF16: one rounding may fall to the other side (2^-8).
double allowed(at::ScalarType dtype) {
  return dtype == at::kFloat ? 1e-5 : std::ldexp(1.0, -8);
}

using Pass = std::function<at::Tensor(const std::vector<at::Tensor>&)>;

// Both forms on the same inputs: results, and gradients of a random projection in every input.
void compare(const Pass& fused, const Pass& composed, const std::vector<at::Tensor>& inputs, Randoms& random) {
  std::vector<at::Tensor> a, b;
  for (const at::Tensor& t : inputs) {
    a.push_back(t.clone().requires_grad_(true));
    b.push_back(t.clone().requires_grad_(true));
  }
  at::Tensor got = fused(a), expected = composed(b);
  EXPECT_LT(error(got, expected), allowed(expected.scalar_type()));
  at::Tensor cotangent = random(expected.sizes().vec());
  torch::autograd::backward({(got.to(at::kFloat) * cotangent).sum()}, {});
  torch::autograd::backward({(expected.to(at::kFloat) * cotangent).sum()}, {});
  for (size_t i = 0; i < inputs.size(); ++i) {
    ASSERT_TRUE(a[i].grad().defined()) << "input " << i;
    EXPECT_LT(error(a[i].grad(), b[i].grad()), allowed(expected.scalar_type())) << "input " << i;
  }
  at::NoGradGuard guard;
  EXPECT_TRUE(at::equal(fused(inputs), got.detach())) << "inference differs from training";
}

class Fused : public testing::TestWithParam<at::ScalarType> {
 protected:
  Randoms random;
};

TEST_P(Fused, NormHeadsEqualsComposed) {
  for (bool turned : {false, true}) {
    at::Tensor table = turned ? rope_table({3, 5, 7}, 32, {}, at::kFloat) : at::Tensor();
    compare([&](const auto& t) { return norm_heads(t[0], t[1], 1e-6, 3, table); },
            [&](const auto& t) { return norm_heads_composed(t[0], t[1], 1e-6, 3, table); },
            {random({2, 105, 96}, GetParam()), random({96})}, random);
  }
}

TEST_P(Fused, ModulatedNormEqualsComposed) {
  for (int64_t samples : {1, 3})
    compare([&](const auto& t) { return modulated_norm(t[0], t[1], t[2], 1e-6, GetParam()); },
            [&](const auto& t) { return modulated_norm_composed(t[0], t[1], t[2], 1e-6, GetParam()); },
            {random({3, 37, 48}) + 2.0, random({samples, 1, 48}), random({samples, 1, 48})}, random);
}

TEST_P(Fused, AddResidualEqualsComposed) {
  for (int64_t samples : {1, 3})
    compare([&](const auto& t) { return add_residual(t[0].clone(), t[1], t[2]); },
            [&](const auto& t) { return at::addcmul(t[0], t[1].to(at::kFloat), t[2]); },
            {random({3, 37, 48}), random({3, 37, 48}, GetParam()), random({samples, 1, 48})}, random);
}

TEST_P(Fused, OneThreadGivesTheSameBytesAsTwo) {
  at::Tensor x = random({1, 700, 64}, GetParam()), weight = random({64});
  at::Tensor table = rope_table({7, 10, 10}, 32, {}, at::kFloat);
  std::vector<at::Tensor> results, gradients;
  const int threads = at::get_num_threads();
  for (int n : {1, 2}) {
    at::set_num_threads(n);
    at::Tensor w = weight.clone().requires_grad_(true);
    at::Tensor y = norm_heads(x, w, 1e-6, 2, table);
    torch::autograd::backward({y.to(at::kFloat).square().sum()}, {});
    results.push_back(y.detach());
    gradients.push_back(w.grad());
  }
  at::set_num_threads(threads);
  EXPECT_TRUE(at::equal(results[0], results[1]));
  EXPECT_TRUE(at::equal(gradients[0], gradients[1]));
}

INSTANTIATE_TEST_SUITE_P(Dtypes, Fused, testing::Values(at::kFloat, at::kBFloat16),
                         [](const auto& info) { return info.param == at::kFloat ? "F32" : "BF16"; });

TEST(FusedEdges, InferenceAddsInPlace) {
  Randoms random;
  at::NoGradGuard guard;
  at::Tensor x = random({1, 4, 32});
  at::Tensor result = add_residual(x, random({1, 4, 32}), random({1, 1, 32}));
  EXPECT_EQ(result.data_ptr(), x.data_ptr());
}

TEST(FusedEdges, NanStaysNan) {
  at::NoGradGuard guard;
  at::Tensor x = at::full({1, 1, 32}, std::nan(""), at::kBFloat16);
  EXPECT_TRUE(at::isnan(norm_heads(x, at::ones({32}), 1e-6, 1, {})).all().item<bool>());
}

}  // namespace
}  // namespace fpsa::models::wan
