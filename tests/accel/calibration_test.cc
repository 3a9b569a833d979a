#include "fpsa/accel/calibration.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "fpsa/accel/methods.h"
#include "fpsa/base/check.h"
#include "tests/error_of.h"
#include "tests/tolerance.h"

namespace fpsa::accel {
namespace {

using pattern::Grid;
using pattern::kFullWindow;
using schedule::Quant;

constexpr Grid kGrid{3, 5, 6};  // a remainder tile on every axis
constexpr Grid kTile{2, 2, 4};
constexpr int64_t kHeads = 3;

CalibrationOptions options(std::vector<schedule::Candidate> candidates) {
  CalibrationOptions result;
  result.list = {kTile, std::move(candidates)};
  return result;
}

std::vector<schedule::Candidate> several() {
  return {{kTile, kFullWindow, Quant::kNone},
          {kTile, kFullWindow, Quant::kE4m3},
          {{1, 1, 1}, {2, 2, 1}, Quant::kE4m3},
          {kTile, {1, 2, 2}, Quant::kInt8},
          {kTile, {2, 1, 1}, Quant::kNone}};
}

struct Inputs {
  at::Tensor q, k, v;
};

Inputs random_inputs(int64_t seed, int64_t batch = 2, at::ScalarType type = at::kFloat) {
  at::manual_seed(seed);
  const auto make = [&] { return at::randn({batch, kGrid.volume(), kHeads, 32}).to(type); };
  return {make(), make(), make()};
}

nn::AttentionContext at_step(int64_t step, int64_t layer, int64_t steps = 4, int64_t layers = 2) {
  nn::AttentionContext context;
  context.layer = layer;
  context.num_layers = layers;
  context.step = step;
  context.num_steps = steps;
  context.grid = kGrid;
  return context;
}

at::Tensor run(nn::AttentionMethod& method, const Inputs& x, const nn::AttentionContext& context) {
  return method.self_attention(x.q, x.k, x.v, context);
}

// The method of a schedule that is this candidate and nothing else.
std::unique_ptr<Method> method_of(const schedule::Candidate& candidate) {
  schedule::Schedule alone;
  alone.tile = kTile;
  alone.phases = {{1.0, candidate.granularity, candidate.window, candidate.quant}};
  return make_fps(alone);
}

// Statistics by loops over elements in F64, of what the schedule's own method gives.
TEST(Calibration, SumsAreThoseOfAPlainComputation) {
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    const auto candidates = several();
    Calibration calibration(options(candidates));
    const Inputs runs[] = {random_inputs(1, 2, type), random_inputs(2, 1, type)};
    for (const auto& x : runs)
      EXPECT_TRUE(at::equal(run(calibration, x, at_step(2, 1)), run(*make_dense(), x, at_step(2, 1))));
    for (size_t i = 0; i < candidates.size(); ++i) {
      ErrorSums expected[kHeads];
      for (const auto& x : runs) {
        const auto dense = run(*make_dense(), x, at_step(2, 1)).to(at::kDouble);
        const auto out = run(*method_of(candidates[i]), x, at_step(2, 1)).to(at::kDouble);
        const auto a = dense.accessor<double, 4>(), b = out.accessor<double, 4>();
        for (int64_t batch = 0; batch < dense.size(0); ++batch)
          for (int64_t token = 0; token < dense.size(1); ++token)
            for (int64_t head = 0; head < kHeads; ++head)
              for (int64_t d = 0; d < dense.size(3); ++d) {
                const double r = a[batch][token][head][d], c = b[batch][token][head][d];
                expected[head].error += (c - r) * (c - r);
                expected[head].dense += r * r;
                expected[head].candidate += c * c;
                expected[head].product += c * r;
              }
      }
      for (int64_t head = 0; head < kHeads; ++head) {
        const auto& got = calibration.sums(i, 2, 1, head);
        const double allowed = tolerance::kCalibrationSums * (expected[head].dense + expected[head].candidate);
        EXPECT_NEAR(got.error, expected[head].error, allowed) << i;
        EXPECT_NEAR(got.dense, expected[head].dense, allowed) << i;
        EXPECT_NEAR(got.candidate, expected[head].candidate, allowed) << i;
        EXPECT_NEAR(got.product, expected[head].product, allowed) << i;
      }
    }
  }
}

TEST(Calibration, AFullWindowWithoutQuantisationHasNoError) {
  Calibration calibration(options(several()));
  run(calibration, random_inputs(3), at_step(0, 0));
  for (int64_t head = 0; head < kHeads; ++head) {
    const auto& exact = calibration.sums(0, 0, 0, head);
    EXPECT_EQ(exact.error, 0);
    EXPECT_EQ(exact.relative_l2(), 0);
    EXPECT_NEAR(exact.cosine(), 1, tolerance::kCalibrationSums);
    EXPECT_TRUE(std::isinf(exact.snr_db()));
    for (size_t i = 1; i < several().size(); ++i) {
      const auto& other = calibration.sums(i, 0, 0, head);
      EXPECT_GT(other.relative_l2(), 0) << i;
      EXPECT_LT(other.cosine(), 1) << i;
      EXPECT_NEAR(other.snr_db(), -20 * std::log10(other.relative_l2()), 1e-9) << i;
    }
  }
}

TEST(ErrorSums, EdgesAreDefined) {
  EXPECT_EQ(ErrorSums{}.relative_l2(), 0);
  EXPECT_EQ(ErrorSums{}.cosine(), 1);
  const ErrorSums lost{.error = 4, .dense = 0, .candidate = 4, .product = 0};
  EXPECT_TRUE(std::isinf(lost.relative_l2()));
  EXPECT_EQ(lost.cosine(), 0);
  const ErrorSums opposite{.error = 16, .dense = 4, .candidate = 4, .product = -4};
  EXPECT_EQ(opposite.relative_l2(), 2);
  EXPECT_EQ(opposite.cosine(), -1);
}

TEST(Calibration, TheTableHoldsTheErrorsAndDensities) {
  Calibration calibration(options(several()));
  for (int64_t step = 0; step < 4; ++step)
    for (int64_t layer = 0; layer < 2; ++layer)
      run(calibration, random_inputs(10 * step + layer, 1), at_step(step, layer));
  const auto table = calibration.table();
  EXPECT_EQ(table.steps, 4);
  EXPECT_EQ(table.layers, 2);
  EXPECT_EQ(table.heads, kHeads);
  ASSERT_EQ(table.candidates(), several().size());
  EXPECT_EQ(table.density[0], 1.0);
  for (size_t i = 0; i < table.candidates(); ++i) {
    EXPECT_EQ(table.at(i, 3, 1, 2), calibration.sums(i, 3, 1, 2).relative_l2());
    EXPECT_EQ(table.density[i], schedule::density_of(several()[i], kGrid, kTile));
  }
}

TEST(Calibration, StridesMeasureAPartAndTheRestIsDense) {
  auto wanted = options(several());
  wanted.step_stride = 2;
  wanted.layer_stride = 3;
  int64_t asked = 0;
  wanted.before_candidate = [&] { ++asked; };
  Calibration calibration(wanted);
  const auto x = random_inputs(4, 1);
  for (int64_t step = 0; step < 5; ++step)
    for (int64_t layer = 0; layer < 4; ++layer)
      EXPECT_TRUE(at::equal(run(calibration, x, at_step(step, layer, 5, 4)), run(*make_dense(), x, at_step(0, 0))));
  EXPECT_EQ(asked, 3 * 2 * static_cast<int64_t>(several().size()));
  EXPECT_EQ(calibration.layers(), (std::vector<int64_t>{0, 3}));
  const auto table = calibration.table();
  EXPECT_EQ(table.steps, 5);
  EXPECT_EQ(table.layers, 2);
  EXPECT_EQ(&calibration.sums(1, 2, 1, 0), &calibration.sums(1, 3, 1, 0));  // step 3 stands on step 2
  EXPECT_NE(&calibration.sums(1, 3, 1, 0), &calibration.sums(1, 4, 1, 0));
}

TEST(Calibration, RefusesWhatItCannotMeasure) {
  EXPECT_NE(error_of([] { Calibration(options({})); }).find("expected at least one"), std::string::npos);
  auto zero = options(several());
  zero.step_stride = 0;
  EXPECT_NE(error_of([&] { Calibration{zero}; }).find("strides"), std::string::npos);

  Calibration calibration(options(several()));
  EXPECT_NE(error_of([&] { calibration.table(); }).find("received none"), std::string::npos);
  const auto x = random_inputs(5);
  run(calibration, x, at_step(0, 0));
  EXPECT_NE(error_of([&] { calibration.table(); }).find("no call for step 0, layer 1"), std::string::npos);
  EXPECT_NE(error_of([&] { run(calibration, x, at_step(0, 0, 9)); }).find("9 steps"), std::string::npos);
  EXPECT_NE(error_of([&] { run(calibration, x, at_step(4, 0)); }).find("received step 4"), std::string::npos);

  Calibration silent(options({{kTile, kFullWindow, Quant::kE4m3}}));
  auto broken = x;
  broken.v = at::full_like(x.v, std::nan(""));
  run(silent, broken, at_step(0, 0, 1, 1));
  EXPECT_NE(error_of([&] { silent.table(); }).find("candidate 1 (granularity (2,2,4)"), std::string::npos);
}

}  // namespace
}  // namespace fpsa::accel
