#include "fpsa/ops/e4m3_linear.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <limits>

#include "fpsa/numeric/scales.h"
#include "tests/tolerance.h"

namespace fpsa::ops {
namespace {

at::Tensor random(at::IntArrayRef shape, at::ScalarType type, uint64_t seed) {
  at::manual_seed(seed);
  return at::randn(shape).to(type);
}

// code x scale in F64.
at::Tensor quantised(const at::Tensor& x) {
  const auto rows = e4m3_rows(x);
  return rows.values.to(at::kDouble) * rows.scale;
}

double relative(const at::Tensor& got, const at::Tensor& want) {
  return ((got.to(at::kDouble) - want).norm() / want.norm()).item<double>();
}

TEST(E4m3Linear, RowsAreTheCodesOfTheNumericRoom) {
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    auto x = random({5, 37}, type, 1);
    x[1].zero_();
    x[2].mul_(1e-30);
    x[3][7] = 1e30;
    const auto rows = e4m3_rows(x);
    EXPECT_EQ(rows.values.scalar_type(), type);
    const auto wide = x.to(at::kFloat).contiguous();
    for (int64_t i = 0; i < 5; ++i) {
      const float* row = wide.const_data_ptr<float>() + i * 37;
      const float scale = numeric::scale_from_absmax(numeric::absmax(row, 37));
      EXPECT_EQ(rows.scale[i].item<float>(), scale);
      for (int64_t d = 0; d < 37; ++d)
        EXPECT_EQ(rows.values[i][d].item<float>(), numeric::f32_from_e4m3(numeric::quantize_e4m3(row[d], scale)));
    }
    EXPECT_EQ(rows.scale[1].item<float>(), 1.0f);
  }
}

TEST(E4m3Linear, IsTheProductOfTheQuantisedMatrices) {
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    const auto x = random({2, 33, 72}, type, 2), w = random({40, 72}, type, 3), b = random({40}, type, 4);
    const auto y = e4m3_linear(x, w, b);
    EXPECT_EQ(y.scalar_type(), type);
    EXPECT_EQ(y.sizes(), (at::IntArrayRef{2, 33, 40}));
    const auto want = at::matmul(quantised(x.view({66, 72})), quantised(w).t()) + b.to(at::kDouble);
    EXPECT_LT(relative(y.view({66, 40}), want), type == at::kFloat ? tolerance::kOpsF32 : tolerance::kE4m3LinearRms);
    // The quantisation itself shows: 2^-4 at most for each operand, less where roundings average out.
    const auto plain = at::matmul(x.view({66, 72}).to(at::kDouble), w.to(at::kDouble).t()) + b.to(at::kDouble);
    EXPECT_GT(relative(y.view({66, 40}), plain), tolerance::kE4m3LinearRms);
    EXPECT_LT(relative(y.view({66, 40}), plain), 0.0626);
    EXPECT_TRUE(at::equal(e4m3_linear(x, e4m3_rows(w), b), y));
    EXPECT_TRUE(at::equal(e4m3_linear(x, w, {}), e4m3_linear(x, w, at::zeros({40}, type))));
  }
}

TEST(E4m3Linear, GradientsGoStraightThroughTheCasts) {
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    auto x = random({3, 20, 48}, type, 5).set_requires_grad(true);
    auto w = random({24, 48}, at::kFloat, 6).set_requires_grad(true),
         b = random({24}, at::kFloat, 7).set_requires_grad(true);
    const auto d_y = random({3, 20, 24}, type, 8);
    const auto got = torch::autograd::grad({e4m3_linear(x, w, b)}, {x, w, b}, {d_y});
    const auto d = d_y.reshape({60, 24}).to(at::kDouble);
    const auto x_hat = quantised(x.detach().reshape({60, 48})), w_hat = quantised(w.detach());
    const double allowed = type == at::kFloat ? tolerance::kOpsF32 : tolerance::kE4m3LinearRms;
    EXPECT_EQ(got[0].scalar_type(), type);
    EXPECT_EQ(got[1].scalar_type(), at::kFloat);
    EXPECT_LT(relative(got[0].reshape({60, 48}), at::matmul(d, w_hat)), allowed);
    EXPECT_LT(relative(got[1], at::matmul(d.t(), x_hat)), allowed);
    EXPECT_LT(relative(got[2], d.sum(0)), allowed);
  }
}

TEST(E4m3Linear, OnlyWhatNeedsAGradientGetsOne) {
  auto w = random({8, 16}, at::kFloat, 9).set_requires_grad(true);
  const auto x = random({4, 16}, at::kFloat, 10);
  EXPECT_TRUE(torch::autograd::grad({e4m3_linear(x, w, {}).sum()}, {w})[0].defined());
  EXPECT_FALSE(e4m3_linear(x, w.detach(), {}).requires_grad());
}

TEST(E4m3Linear, BytesDoNotDependOnTheNumberOfThreadsAndBadValuesStayInTheirRow) {
  auto x = random({700, 96}, at::kBFloat16, 11);
  x[5][3] = std::numeric_limits<float>::infinity();
  x[6][3] = std::numeric_limits<float>::quiet_NaN();
  const auto w = random({8, 96}, at::kBFloat16, 12);
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const auto one = e4m3_rows(x);
  at::set_num_threads(4);
  const auto four = e4m3_rows(x);
  const auto y = e4m3_linear(x, w, {});
  at::set_num_threads(threads);
  EXPECT_TRUE(at::equal(one.values.nan_to_num(), four.values.nan_to_num()));
  EXPECT_TRUE(at::equal(one.scale.nan_to_num(), four.scale.nan_to_num()));
  EXPECT_TRUE(y[5].isnan().all().item<bool>());
  EXPECT_TRUE(y[6].isnan().all().item<bool>());
  EXPECT_EQ(y.isnan().sum().item<int64_t>(), 16);
}

TEST(E4m3Linear, EmptyAndOddShapes) {
  const auto w = random({8, 16}, at::kFloat, 13);
  EXPECT_EQ(e4m3_linear(at::empty({0, 16}), w, {}).sizes(), (at::IntArrayRef{0, 8}));
  EXPECT_EQ(e4m3_linear(at::zeros({16}), w, {}).sizes(), at::IntArrayRef{8});
  const auto x = random({16, 5}, at::kFloat, 14);
  EXPECT_TRUE(at::equal(e4m3_linear(x.t(), w, {}), e4m3_linear(x.t().contiguous(), w, {})));
}

template <class Function>
void refuses(const std::string& text, const Function& fn) {
  try {
    fn();
    ADD_FAILURE() << "no error, expected " << text;
  } catch (const c10::Error& error) {
    EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what();
  }
}

TEST(E4m3Linear, RefusalsNameTheArgument) {
  const auto w = random({8, 16}, at::kFloat, 15), x = random({4, 16}, at::kFloat, 16);
  refuses("x must be float32 or bfloat16", [&] { e4m3_linear(x.to(at::kDouble), w, {}); });
  refuses("weight must be float32 or bfloat16", [&] { e4m3_linear(x, at::Tensor(), {}); });
  refuses("weight must be [out, 16]", [&] { e4m3_linear(x, w.t(), {}); });
  refuses("bias must be [8]", [&] { e4m3_linear(x, w, at::zeros({9})); });
  refuses("x must be [rows, in]", [&] { e4m3_rows(at::zeros({2, 3, 4})); });
  auto leaf = x.clone().set_requires_grad(true);
  refuses("of a coded weight", [&] { e4m3_linear(leaf, e4m3_rows(w), {}); });
  refuses("no second derivative", [&] {
    torch::autograd::grad({e4m3_linear(leaf, w, {}).sum()}, {leaf}, {}, std::nullopt, /*create_graph=*/true);
  });
}

}  // namespace
}  // namespace fpsa::ops
