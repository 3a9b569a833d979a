#include "fpsa/train/phases.h"

#include <gtest/gtest.h>

#include "fpsa/base/check.h"
#include "fpsa/diffusion/sigmas.h"
#include "fpsa/train/recipe.h"

namespace fpsa::train {
namespace {

using pattern::Grid;

schedule::Schedule three_phases(double first, double second) {
  schedule::Schedule s;
  s.tile = {3, 4, 4};
  s.phases = {{first, {9, 16, 16}, {3, 2, 2}}, {second, {3, 4, 4}, {3, 3, 3}}, {1.0, {3, 8, 8}, {1, 2, 2}}};
  return s;
}

TEST(StepLevels, EveryLevelOfASamplerIsInItsOwnStep) {
  using diffusion::SamplerKind;
  for (const double shift : {0.5, 1.0, 3.0, 5.0, 12.0})
    for (const int64_t steps : {1, 2, 12, 20, 50, 333, 500}) {
      const StepLevels levels(shift, steps);
      for (const SamplerKind kind : {SamplerKind::kUniPc, SamplerKind::kDpmpp2m}) {
        const auto run = diffusion::make_sigmas({.sampler = kind, .shift = shift}, steps);
        for (int64_t i = 0; i < steps; ++i)
          ASSERT_EQ(levels.step_of(run.sigmas[static_cast<size_t>(i)]), i)
              << diffusion::sampler_name(kind) << " shift " << shift << " steps " << steps;
      }
      for (int64_t i = 0; i < steps; ++i) {
        const float u = 1.0F - static_cast<float>(i) / static_cast<float>(steps);
        const float sigma = static_cast<float>(shift) * u / (1.0F + static_cast<float>(shift - 1.0) * u);
        ASSERT_EQ(levels.step_of(std::min(sigma, 1.0F)), i) << "plain, shift " << shift << " steps " << steps;
      }
    }
}

TEST(StepLevels, TheLongestRunHasAStepForEveryLevel) {
  const StepLevels levels(5.0, 1000);
  const auto run = diffusion::make_sigmas({.shift = 5.0}, 1000);
  for (int64_t i = 0; i < 1000; ++i)
    ASSERT_EQ(levels.step_of(run.sigmas[static_cast<size_t>(i)]), i);
}

TEST(StepLevels, TrainingHasThePhaseOfEveryInferenceStep) {
  for (const double shift : {1.0, 3.0, 5.0})
    for (const int64_t steps : {10, 20, 50}) {
      const StepLevels levels(shift, steps);
      // Borders on steps, between them, and one that F64 does not hold.
      for (const auto& s : {three_phases(0.2, 0.6), three_phases(0.23, 0.57), three_phases(0.1 + 0.2, 0.7)}) {
        const auto run = diffusion::make_sigmas({.shift = shift}, steps);
        for (int64_t i = 0; i < steps; ++i)
          ASSERT_EQ(schedule::phase_at(s, levels.step_of(run.sigmas[static_cast<size_t>(i)]), steps),
                    schedule::phase_at(s, i, steps))
              << "shift " << shift << " steps " << steps << " step " << i;
      }
    }
}

TEST(StepLevels, ThePhaseIsThatOfAnyRunWhenBordersAreMultiplesOfAStep) {
  const auto s = three_phases(0.2, 0.6);
  const StepLevels levels(5.0, 20);
  for (const int64_t steps : {1, 3, 7, 10, 12, 30, 50, 100, 777}) {
    const auto run = diffusion::make_sigmas({.shift = 5.0}, steps);
    for (int64_t i = 0; i < steps; ++i)
      ASSERT_EQ(schedule::phase_at(s, levels.step_of(run.sigmas[static_cast<size_t>(i)]), 20),
                schedule::phase_at(s, i, steps))
          << steps << " steps, step " << i;
  }
}

TEST(StepLevels, EdgesBelongToTheFirstAndTheLastStep) {
  const StepLevels levels(5.0, 20);
  EXPECT_EQ(levels.step_of(1.0), 0);
  EXPECT_EQ(levels.step_of(0.0), 19);
  EXPECT_THROW(levels.step_of(1.1), Error);
  EXPECT_THROW(StepLevels(5.0, 0), Error);
}

TEST(StepLevels, TheDefaultNumberOfStepsIsThatOfARecipe) {
  EXPECT_EQ(Recipe().num_inference_steps, kDefaultSteps);  // Python's apply() takes the latter
}

TEST(GroupByPhase, EverySampleIsInOneGroupOfItsPhase) {
  const auto s = three_phases(0.2, 0.6);
  const StepLevels levels(5.0, 20);
  const auto run = diffusion::make_sigmas({.shift = 5.0}, 20);
  const std::vector<float> sigmas = {run.sigmas[19], run.sigmas[0], run.sigmas[12], run.sigmas[3]};
  const auto groups = group_by_phase(s, levels, sigmas);
  ASSERT_EQ(groups.size(), 2u);  // nothing in the middle phase
  EXPECT_EQ(groups[0].samples, (std::vector<int64_t>{1, 3}));
  EXPECT_EQ(groups[1].samples, (std::vector<int64_t>{0, 2}));
  EXPECT_EQ(schedule::phase_at(s, groups[0].step, 20), 0);
  EXPECT_EQ(schedule::phase_at(s, groups[1].step, 20), 2);
  EXPECT_TRUE(group_by_phase(s, levels, {}).empty());
}

TEST(WithDensity, WindowsNarrowFromTheWholeGridToTheSchedules) {
  auto s = three_phases(0.2, 0.6);
  s.overrides.resize(2);
  s.overrides[0].window = Grid{1, 1, 1};
  s.overrides[1].pattern = "radial";
  const Grid grid{9, 16, 16};  // 3x4x4 tiles
  EXPECT_EQ(with_density(s, grid, 1.0), s);
  EXPECT_EQ(with_density(s, grid, 7.0), s);
  const auto full = with_density(s, grid, 0.0);
  EXPECT_EQ(full.phases[0].window, (Grid{3, 4, 4}));
  EXPECT_EQ(full.overrides[0].window, (Grid{3, 4, 4}));
  EXPECT_EQ(full.overrides[1], s.overrides[1]);
  const auto half = with_density(s, grid, 0.5);
  EXPECT_EQ(half.phases[0].window, (Grid{3, 3, 3}));
  EXPECT_EQ(half.phases[1].window, (Grid{3, 4, 4}));
  EXPECT_EQ(half.phases[2].window, (Grid{2, 3, 3}));
  EXPECT_EQ(half.overrides[0].window, (Grid{2, 3, 3}));
  EXPECT_EQ(half.phases[0].granularity, s.phases[0].granularity);
  s.phases[0].window = pattern::kFullWindow;
  EXPECT_EQ(with_density(s, grid, 0.5).phases[0].window, pattern::kFullWindow);
}

}  // namespace
}  // namespace fpsa::train
