#include "fpsa/accel/methods.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "fpsa/accel/torch_dense.h"
#include "fpsa/base/check.h"
#include "fpsa/kernel/table.h"
#include "fpsa/ops/attention.h"
#include "fpsa/ops/attention_grad.h"
#include "fpsa/ops/plan.h"
#include "tests/tolerance.h"

namespace fpsa::accel {
namespace {

using pattern::Grid;
using schedule::Quant;

constexpr Grid kGrid{6, 8, 8};
constexpr Grid kTile{3, 4, 4};

struct Inputs {
  at::Tensor q, k, v;
};

Inputs random_inputs(int64_t heads = 4) {
  at::manual_seed(11);
  auto make = [&] { return at::randn({2, kGrid.volume(), heads, 32}).to(at::kBFloat16); };
  return {make(), make(), make()};
}

nn::AttentionContext at_step(int64_t step, int64_t layer = 0, Grid grid = kGrid) {
  nn::AttentionContext context;
  context.layer = layer;
  context.num_layers = 3;
  context.step = step;
  context.num_steps = 10;
  context.grid = grid;
  return context;
}

// Coarse and sparse, then dense without quantisation, then sparse without quantisation.
schedule::Schedule three_phases() {
  schedule::Schedule s;
  s.tile = kTile;
  s.phases = {{0.2, {6, 8, 8}, {2, 1, 1}, Quant::kE4m3},
              {0.6, kTile, pattern::kFullWindow, Quant::kNone},
              {1.0, kTile, {1, 2, 1}, Quant::kNone}};
  return s;
}

at::Tensor run(Method& method, const Inputs& x, const nn::AttentionContext& context) {
  return method.self_attention(x.q, x.k, x.v, context);
}

TEST(Methods, DenseSettingReproducesTheBaselineBitForBit) {
  const auto x = random_inputs();
  const auto baseline = run(*make_dense(), x, at_step(0));
  EXPECT_TRUE(at::equal(run(*make_sta(kTile, pattern::kFullWindow), x, at_step(0)), baseline));
  EXPECT_TRUE(at::equal(run(*make_sta(kTile, {2, 2, 2}), x, at_step(0)), baseline));  // as many tiles as there are
  EXPECT_TRUE(at::equal(run(*make_fps(three_phases()), x, at_step(3)), baseline));
  EXPECT_FALSE(at::equal(run(*make_fps(three_phases()), x, at_step(0)), baseline));
  EXPECT_FALSE(at::equal(run(*make_fps(three_phases()), x, at_step(9)), baseline));
}

TEST(Methods, AnotherCodingOfPIsEmulatedWhereThereAreCodes) {
  const auto x = random_inputs();
  auto s = three_phases();
  s.overrides.push_back({{}, {{1, 2}}, {}, std::nullopt, std::nullopt, std::nullopt, Quant::kNone});
  const auto usual = make_fps(s), same = make_fps(s, ops::PCoding{256, false}), other = make_fps(s, {448, true});
  const auto want = run(*usual, x, at_step(0)).to(at::kFloat), got = run(*same, x, at_step(0)).to(at::kFloat);
  const double top = x.v.abs().max().item<double>();
  EXPECT_LT((got - want).abs().max().item<double>(), tolerance::kAttentionE4m3 * top);
  EXPECT_TRUE(at::equal(got.narrow(2, 1, 2), want.narrow(2, 1, 2))) << "heads without codes";
  EXPECT_FALSE(at::equal(run(*other, x, at_step(0)).to(at::kFloat), got));
  EXPECT_TRUE(at::equal(run(*other, x, at_step(9)), run(*usual, x, at_step(9)))) << "a phase without codes";
  EXPECT_NE(same->report()[0].kernel.find("emulated_e4m3"), std::string::npos);
  EXPECT_EQ(same->report()[0].density, usual->report()[0].density);
  auto grad = random_inputs();
  grad.q = grad.q.detach().requires_grad_(true);
  EXPECT_THROW(run(*same, grad, at_step(0)), Error);
}

TEST(Methods, TorchsDenseAttentionIsDenseAndSaysWhyItRan) {
  auto x = random_inputs();
  for (auto* one : {&x.q, &x.k, &x.v})
    *one = one->to(at::kFloat);
  Explain entry;
  const auto out = torch_dense(x.q, x.k, x.v, "head_dim: expected 64", entry);
  const double top = x.v.abs().max().item<double>();
  EXPECT_LT((out - run(*make_dense(), x, at_step(0))).abs().max().item<double>(), 2 * tolerance::kOpsF32 * top);
  EXPECT_EQ(entry.kernel, "scaled_dot_product_attention");
  EXPECT_EQ(entry.isa, "torch");
  EXPECT_EQ(entry.reason, "dense by torch, since head_dim: expected 64");
}

TEST(Methods, TheChoiceThatIsLeftToUsIsFpsOnACpu) {
  const auto x = random_inputs();
  const auto fps = make_fps(three_phases()), chosen = make_fps_or_torch_dense(three_phases());
  EXPECT_TRUE(at::equal(run(*chosen, x, at_step(0)), run(*fps, x, at_step(0))));
  EXPECT_EQ(chosen->report()[0].kernel, fps->report()[0].kernel);
}

TEST(Methods, FpsRunsThePhaseOfItsStep) {
  const auto x = random_inputs();
  const auto method = make_fps(three_phases());
  ops::AttentionOptions e4m3;
  e4m3.precision = ops::Precision::kE4m3;
  const auto first = ops::plan_for(kGrid, kTile, {6, 8, 8}, "sta", {2, 1, 1});
  EXPECT_TRUE(at::equal(run(*method, x, at_step(1)), ops::attention(x.q, x.k, x.v, *first, e4m3).out));
  const auto last = ops::plan_for(kGrid, kTile, kTile, "sta", {1, 2, 1});
  EXPECT_TRUE(at::equal(run(*method, x, at_step(6)), ops::attention(x.q, x.k, x.v, *last).out));
}

TEST(Methods, StaAndFp8AreTheHalvesOfTheSchedule) {
  const auto x = random_inputs();
  EXPECT_TRUE(
      at::equal(run(*make_sta(three_phases()), x, at_step(0)), run(*make_sta(kTile, {2, 1, 1}), x, at_step(0))));
  EXPECT_TRUE(
      at::equal(run(*make_fp8(three_phases()), x, at_step(0)), run(*make_fp8(kTile, {6, 8, 8}), x, at_step(0))));
  EXPECT_FALSE(
      at::equal(run(*make_fp8(kTile, {1, 2, 2}), x, at_step(0)), run(*make_fp8(kTile, {6, 8, 8}), x, at_step(0))));
}

TEST(Methods, Int8IsAHalfOfTheScheduleAndAPrecisionOfFps) {
  const auto x = random_inputs();
  const auto int8 = make_int8(three_phases());
  ops::AttentionOptions options;
  options.precision = ops::Precision::kInt8;
  options.smooth_keys = true;
  const auto dense = ops::plan_for(kGrid, kTile, {6, 8, 8}, "sta", pattern::kFullWindow);
  EXPECT_TRUE(at::equal(run(*int8, x, at_step(0)), ops::attention(x.q, x.k, x.v, *dense, options).out));
  EXPECT_TRUE(at::equal(run(*make_int8(kTile, {6, 8, 8}), x, at_step(0)), run(*int8, x, at_step(0))));
  EXPECT_EQ(int8->report()[0].method, "int8");
  EXPECT_EQ(int8->report()[0].kernel, kernel::attention_fwd(kernel::Dtype::kInt8).name);
  EXPECT_EQ(int8->report()[0].granularity, "(6,8,8)");

  auto s = three_phases();
  s.phases[0].quant = Quant::kInt8;
  const auto fps = make_fps(s);
  const auto sparse = ops::plan_for(kGrid, kTile, {6, 8, 8}, "sta", {2, 1, 1});
  EXPECT_TRUE(at::equal(run(*fps, x, at_step(1)), ops::attention(x.q, x.k, x.v, *sparse, options).out));
  EXPECT_TRUE(at::equal(run(*fps, x, at_step(3)), run(*make_dense(), x, at_step(3))));
}

TEST(Methods, OverridesActOnTheirLayersAndHeads) {
  const auto x = random_inputs();
  auto s = three_phases();
  schedule::Override change;
  change.layers = {{1, 1}};
  change.heads = {{2, 3}};
  change.window = pattern::kFullWindow;
  change.quant = Quant::kNone;
  s.overrides = {change};
  const auto method = make_fps(s), plain = make_fps(three_phases());
  EXPECT_TRUE(at::equal(run(*method, x, at_step(0, 0)), run(*plain, x, at_step(0, 0))));
  const auto got = run(*method, x, at_step(0, 1));
  EXPECT_TRUE(at::equal(got.narrow(2, 2, 2), run(*make_dense(), x, at_step(0)).narrow(2, 2, 2)));
  EXPECT_TRUE(at::equal(got.narrow(2, 0, 2), run(*plain, x, at_step(0, 1)).narrow(2, 0, 2)));
  const auto entry = method->report().back();
  EXPECT_EQ(entry.layer, 1);
  EXPECT_NE(entry.pattern.find("heads 0-1: sta window (2,1,1)"), std::string::npos) << entry.pattern;
  EXPECT_NE(entry.pattern.find("heads 2-3: dense"), std::string::npos) << entry.pattern;
  EXPECT_NE(entry.reason.find("override 1 for heads 2-3"), std::string::npos) << entry.reason;
  EXPECT_NEAR(entry.density, (0.25 + 1.0) / 2, 1e-9);
}

TEST(Methods, GranularityHasNoEffectWithoutQuantisation) {
  const auto x = random_inputs();
  auto coarse = three_phases(), fine = three_phases();
  for (auto& phase : fine.phases)
    phase.granularity = {1, 2, 2};
  EXPECT_TRUE(at::equal(run(*make_sta(fine), x, at_step(9)), run(*make_sta(coarse), x, at_step(9))));
  EXPECT_TRUE(at::equal(run(*make_fps(fine), x, at_step(9)), run(*make_fps(coarse), x, at_step(9))));
  schedule::Override change;
  change.heads = {{1, 2}};
  change.granularity = {1, 1, 1};
  coarse.overrides = {change};
  const auto method = make_sta(coarse);
  EXPECT_TRUE(at::equal(run(*method, x, at_step(9)), run(*make_sta(three_phases()), x, at_step(9))));
  EXPECT_EQ(method->report()[0].pattern, "sta window (1,2,1) of tile (3,4,4)");  // all heads in one call
}

TEST(Methods, WindowHasNoEffectWithoutSlidingTiles) {
  const auto x = random_inputs();
  auto s = three_phases();
  schedule::Override narrow, dense;
  narrow.heads = {{2, 3}};
  narrow.window = {1, 1, 1};
  dense.pattern = "dense";
  s.overrides = {narrow, dense};
  const auto method = make_fps(s);
  EXPECT_TRUE(at::equal(run(*method, x, at_step(9)), run(*make_dense(), x, at_step(9))));
  EXPECT_EQ(method->report()[0].pattern, "dense");  // all heads in one call
}

TEST(Methods, ReportSaysWhatRan) {
  const auto x = random_inputs();
  const auto method = make_fps(three_phases());
  run(*method, x, at_step(6, 2));
  run(*method, x, at_step(0, 1));
  run(*method, x, at_step(0, 1));  // the second sample of guidance
  const auto report = method->report();
  ASSERT_EQ(report.size(), 2u);
  EXPECT_EQ(report[0].step, 0);
  EXPECT_EQ(report[0].layer, 1);
  EXPECT_EQ(report[0].method, "fps");
  EXPECT_EQ(report[0].kernel, kernel::attention_fwd(kernel::Dtype::kE4m3).name);
  EXPECT_EQ(report[0].isa, kernel::isa_name(kernel::attention_fwd(kernel::Dtype::kE4m3).isa));
  EXPECT_EQ(report[0].pattern, "sta window (2,1,1) of tile (3,4,4)");
  EXPECT_EQ(report[0].granularity, "(6,8,8)");
  EXPECT_NEAR(report[0].density, 0.25, 1e-9);
  EXPECT_NE(report[0].reason.find("phase 1 of 3"), std::string::npos) << report[0].reason;
  EXPECT_EQ(report[1].kernel, kernel::attention_fwd(kernel::Dtype::kBf16).name);
  EXPECT_EQ(report[1].granularity, "-");
  EXPECT_GT(method->seconds(), 0.0);
  method->reset();
  EXPECT_TRUE(method->report().empty());
  EXPECT_EQ(method->seconds(), 0.0);
}

TEST(Methods, DenseTrainsThroughTheKernels) {
  auto x = random_inputs();
  x.q.set_requires_grad(true);
  const auto method = make_dense();
  const auto out = run(*method, x, at_step(0));
  EXPECT_TRUE(torch::autograd::grad({out.sum()}, {x.q})[0].defined());
  EXPECT_EQ(method->report()[0].kernel, kernel::attention_fwd(kernel::Dtype::kBf16).name);
  const at::NoGradGuard no_grad;
  run(*method, x, at_step(0));
  EXPECT_EQ(method->report()[0].kernel, kernel::attention_fwd(kernel::Dtype::kBf16).name);
}

// Heads that differ in window and precision: outputs as without gradients, gradients as of each run of heads alone.
TEST(Methods, SchedulesTrainThroughTheKernels) {
  auto s = three_phases();
  schedule::Override change;
  change.heads = {{1, 2}};
  change.window = pattern::kFullWindow;
  s.overrides = {change};
  auto x = random_inputs();
  const auto inference = run(*make_fps(s), x, at_step(0));
  for (auto* t : {&x.q, &x.k, &x.v})
    t->set_requires_grad(true);
  const auto method = make_fps(s);
  const auto out = run(*method, x, at_step(0));
  EXPECT_TRUE(at::equal(out, inference));
  EXPECT_EQ(method->report()[0].kernel, kernel::attention_fwd(kernel::Dtype::kE4m3).name);
  const auto d_out = at::randn_like(inference);
  const auto got = torch::autograd::grad({out}, {x.q, x.k, x.v}, {d_out});
  ops::AttentionOptions options;
  options.precision = ops::Precision::kE4m3;
  for (const auto& [first, count, window] :
       {std::tuple{0, 1, Grid{2, 1, 1}}, {1, 2, pattern::kFullWindow}, {3, 1, Grid{2, 1, 1}}}) {
    auto heads = [&, first = first, count = count](const at::Tensor& t) { return t.narrow(2, first, count); };
    const auto plan = ops::plan_for(kGrid, kTile, {6, 8, 8}, "sta", window);
    const auto alone = ops::differentiable_attention(heads(x.q), heads(x.k), heads(x.v), plan, options).out;
    const auto want = torch::autograd::grad({alone}, {x.q, x.k, x.v}, {heads(d_out)});
    for (size_t i = 0; i < 3; ++i)
      EXPECT_TRUE(at::equal(heads(got[i]), heads(want[i]))) << "heads from " << first << ", gradient " << i;
  }
}

TEST(Methods, WhatCannotRunIsAnError) {
  auto x = random_inputs();
  EXPECT_THROW(run(*make_fps(three_phases()), x, at_step(0, 0, {6, 8, 9})), Error);
  EXPECT_THROW(run(*make_fps(three_phases()), x, at_step(10)), Error);
  EXPECT_THROW(make_fp8(kTile, {2, 4, 4}), Error);
  EXPECT_THROW(make_sta(kTile, {0, 1, 1}), Error);
  auto s = three_phases();
  schedule::Override change;
  change.heads = {{4, 4}};
  change.quant = Quant::kNone;
  s.overrides = {change};
  EXPECT_THROW(run(*make_fps(s), x, at_step(0)), Error);
  x.q.set_requires_grad(true);
  EXPECT_THROW(run(*make_int8(kTile, kTile), x, at_step(0)), c10::Error);
}

}  // namespace
}  // namespace fpsa::accel
