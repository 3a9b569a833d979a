#include "fpsa/schedule/schedule.h"

#include <gtest/gtest.h>

#include "fpsa/base/check.h"
#include "fpsa/pattern/mask.h"
#include "tests/error_of.h"

namespace fpsa::schedule {
namespace {

using pattern::kAllTiles;
using pattern::kFullWindow;

TEST(DefaultSchedule, IsValidAndGoesFromCoarseToFineToBetween) {
  const Schedule s = default_schedule();
  validate(s);
  ASSERT_EQ(s.phases.size(), 3u);
  EXPECT_EQ(s.tile, (Grid{6, 8, 8}));
  EXPECT_EQ(s.shift, 5.0);
  EXPECT_EQ(s.phases[0].window, (Grid{6, 6, 1}));
  EXPECT_EQ(s.phases[1].window, kFullWindow);
  EXPECT_GT(s.phases[0].granularity.volume(), s.phases[2].granularity.volume());
  EXPECT_GT(s.phases[2].granularity.volume(), s.phases[1].granularity.volume());
  for (const Grid grid : {Grid{21, 45, 80}, Grid{21, 30, 52}, Grid{1, 1, 1}})
    EXPECT_NO_THROW(check_for_grid(s, grid));
}

TEST(PhaseAt, BordersBelongToTheLaterPhase) {
  const Schedule s = default_schedule();
  for (int64_t i = 0; i < 50; ++i)
    EXPECT_EQ(phase_at(s, i, 50), i < 10 ? 0 : i < 30 ? 1 : 2) << i;
  EXPECT_EQ(phase_at(s, 0, 1), 0);
  // f = 0, .25, .5, .75
  EXPECT_EQ(phase_at(s, 0, 4), 0);
  EXPECT_EQ(phase_at(s, 1, 4), 1);
  EXPECT_EQ(phase_at(s, 2, 4), 1);
  EXPECT_EQ(phase_at(s, 3, 4), 2);
}

TEST(PhaseAt, EveryStepCountPutsEachStepWhereTheFractionSays) {
  Schedule s = default_schedule();
  for (int64_t tenth = 1; tenth < 10; ++tenth) {
    s.phases[0].until = static_cast<double>(tenth) / 10.0;
    s.phases[1].until = static_cast<double>(tenth) / 10.0 + 0.05;
    for (int64_t steps = 1; steps <= 100; ++steps) {
      for (int64_t i = 0; i < steps; ++i) {
        const int expected = i * 10 < tenth * steps ? 0 : i * 20 < (2 * tenth + 1) * steps ? 1 : 2;
        ASSERT_EQ(phase_at(s, i, steps), expected) << "step " << i << " of " << steps << " tenth " << tenth;
      }
    }
  }
}

TEST(PhaseAt, IsExactCloseToABorder) {
  Schedule s = default_schedule();
  s.phases[0].until = 0.2 + 1e-9;
  EXPECT_EQ(phase_at(s, 10, 50), 0);
  s.phases[0].until = 0.2 - 1e-9;
  EXPECT_EQ(phase_at(s, 10, 50), 1);
  s.phases[0].until = 0.2;
  EXPECT_EQ(phase_at(s, 199'999'999, 1'000'000'000), 0);
  EXPECT_EQ(phase_at(s, 200'000'000, 1'000'000'000), 1);
}

TEST(PhaseAt, RefusesStepsOutOfRange) {
  const Schedule s = default_schedule();
  EXPECT_EQ(error_of([&] { phase_at(s, 0, 0); }), "steps = 0: expected at least 1");
  EXPECT_EQ(error_of([&] { phase_at(s, 50, 50); }), "step = 50: expected [0, 50)");
  EXPECT_EQ(error_of([&] { phase_at(s, -1, 50); }), "step = -1: expected [0, 50)");
}

TEST(SettingFor, WithoutOverridesIsThePhase) {
  const Schedule s = default_schedule();
  for (int64_t i = 0; i < 50; ++i) {
    const Setting setting = setting_for(s, i, 50, 3, 5);
    const Phase& phase = s.phases[static_cast<size_t>(phase_at(s, i, 50))];
    EXPECT_EQ(setting.granularity, phase.granularity);
    EXPECT_EQ(setting.window, phase.window);
    EXPECT_EQ(setting.quant, phase.quant);
    EXPECT_EQ(setting.pattern, "sta");
    EXPECT_EQ(setting.phase, phase_at(s, i, 50));
    EXPECT_EQ(setting.override_index, -1);
  }
}

TEST(SettingFor, LaterOverridesWinFieldByFieldWhereAllSelectorsMatch) {
  Schedule s = default_schedule();
  Override dense_first;
  dense_first.layers = {{0, 1}};
  dense_first.pattern = "dense";
  dense_first.quant = Quant::kNone;
  Override narrow;
  narrow.layers = {{1, 4}, {9, 9}};
  narrow.heads = {{2, 3}};
  narrow.phases = {{0, 0}};
  narrow.quant = Quant::kE4m3;
  narrow.granularity = {3, 4, 4};
  s.overrides = {dense_first, narrow};
  validate(s);

  EXPECT_EQ(setting_for(s, 0, 50, 0, 2).pattern, "dense");
  EXPECT_EQ(setting_for(s, 0, 50, 0, 2).quant, Quant::kNone);
  EXPECT_EQ(setting_for(s, 0, 50, 0, 2).override_index, 0);
  const Setting both = setting_for(s, 0, 50, 1, 2);
  EXPECT_EQ(both.pattern, "dense") << "kept from the first override";
  EXPECT_EQ(both.quant, Quant::kE4m3) << "replaced by the second";
  EXPECT_EQ(both.granularity, (Grid{3, 4, 4}));
  EXPECT_EQ(both.window, (Grid{6, 6, 1})) << "kept from the phase";
  EXPECT_EQ(both.override_index, 1);
  EXPECT_EQ(setting_for(s, 0, 50, 1, 4).override_index, 0) << "head outside";
  EXPECT_EQ(setting_for(s, 10, 50, 9, 2).override_index, -1) << "phase outside";
  EXPECT_EQ(setting_for(s, 0, 50, 9, 3).override_index, 1);
  EXPECT_EQ(setting_for(s, 0, 50, 5, 2).override_index, -1) << "layer outside";
}

TEST(SettingFor, AWindowUndoesThePatternOfAnEarlierOverride) {
  Schedule s = default_schedule();
  Override dense, window, later;
  dense.pattern = "dense";
  window.layers = {{2, 3}};
  window.window = {3, 3, 1};
  later.layers = {{3, 3}};
  later.pattern = "radial";
  s.overrides = {dense, window, later};
  validate(s);
  EXPECT_EQ(setting_for(s, 0, 50, 1, 0).pattern, "dense");
  EXPECT_EQ(setting_for(s, 0, 50, 2, 0).pattern, "sta");
  EXPECT_EQ(setting_for(s, 0, 50, 2, 0).window, (Grid{3, 3, 1}));
  EXPECT_EQ(setting_for(s, 0, 50, 3, 0).pattern, "radial");
}

TEST(CheckForGrid, RefusesGridsThatNoMaskCanHold) {
  Schedule s = default_schedule();
  EXPECT_EQ(error_of([&] {
              check_for_grid(s, {21, 0, 80});
            }),
            "grid 21x0x80: expected every extent (t, y, x) to be at least 1");
  s.tile = {1, 1, 1};
  EXPECT_EQ(error_of([&] {
              check_for_grid(s, {21, 45, 80});
            }),
            "schedule: phase 2: 75600 tiles that see 75600 each are more than 134217728 pairs; use a larger tile");
  s.phases[1].window = {6, 6, 1};
  EXPECT_NO_THROW(check_for_grid(s, {21, 45, 80}));
  Override o;
  o.pattern = "radial";
  s.overrides = {o};
  EXPECT_EQ(error_of([&] {
              check_for_grid(s, {21, 45, 80});
            }),
            "schedule: override 1: 75600 tiles that see 75600 each are more than 134217728 pairs; use a larger tile");
}

TEST(CheckForGrid, WhatItAcceptsHasAMask) {
  const Schedule s = default_schedule();
  for (const Grid grid : {Grid{1, 1, 1}, Grid{21, 45, 80}, Grid{5, 7, 11}}) {
    check_for_grid(s, grid);
    for (const Phase& phase : s.phases)
      EXPECT_NO_THROW(pattern::sliding_tile(grid, s.tile, phase.window));
  }
}

TEST(CheckForModel, RefusesLayersAndHeadsThatDoNotExist) {
  Schedule s = default_schedule();
  Override o;
  o.quant = Quant::kNone;
  o.layers = {{0, 29}};
  o.heads = {{11, 11}};
  s.overrides = {o};
  EXPECT_NO_THROW(check_for_model(s, 30, 12));
  EXPECT_EQ(error_of([&] { check_for_model(s, 29, 12); }),
            "schedule: override 1 layers: layer 29 does not exist; the model has layers 0 to 28");
  EXPECT_EQ(error_of([&] { check_for_model(s, 30, 4); }),
            "schedule: override 1 heads: head 11 does not exist; the model has heads 0 to 3");
}

TEST(CutAxes, NamesThePhaseAndAxisThatNoHeadCrosses) {
  Schedule s;
  s.tile = {3, 4, 4};
  s.phases = {{0.5, {3, 4, 4}, {2, 2, 2}, Quant::kE4m3}, {1.0, {3, 4, 4}, {1, 4, 1}, Quant::kE4m3}};
  const Grid grid{9, 16, 16};
  EXPECT_EQ(cut_axes(s, grid, 2, 2), (std::vector<std::string>{"phase 2 along t", "phase 2 along x"}));
  // One head of one layer is enough, and another pattern than windows counts as crossing.
  Override through_time;
  through_time.layers = {{1, 1}};
  through_time.heads = {{0, 0}};
  through_time.window = Grid{pattern::kAllTiles, 1, 1};
  s.overrides = {through_time};
  EXPECT_EQ(cut_axes(s, grid, 2, 2), (std::vector<std::string>{"phase 2 along x"}));
  EXPECT_EQ(cut_axes(s, grid, 1, 2).size(), 2u) << "the override's layer is beyond the model";
  s.overrides[0].window.reset();
  s.overrides[0].pattern = "dense";
  EXPECT_TRUE(cut_axes(s, grid, 2, 2).empty());
  s.overrides.clear();
  EXPECT_EQ(cut_axes(s, {9, 16, 4}, 2, 2), (std::vector<std::string>{"phase 2 along t"})) << "one tile along x";
}

TEST(Validate, ChecksSchedulesBuiltInCodeToo) {
  Schedule s = default_schedule();
  s.phases.clear();
  EXPECT_EQ(error_of([&] { validate(s); }), "schedule: phase: expected at least one [[phase]], received none");
  s = default_schedule();
  s.phases[1].granularity = {6, 5, 8};
  EXPECT_EQ(error_of([&] { validate(s); }),
            "schedule: phase 2 granularity: granularity y = 5: expected a multiple or a divisor of the tile's y = 8; "
            "the nearest are 4 and 8");
  s = default_schedule();
  Override o;
  o.quant = Quant::kNone;
  o.phases = {{1, 3}};
  s.overrides = {o};
  EXPECT_EQ(error_of([&] { to_toml(s); }), "schedule: override 1 phases: expected phases from 1 to 3, received 2-4");
  s.overrides[0].phases = {};
  s.overrides[0].layers = {{4, 3}};
  EXPECT_EQ(error_of([&] { validate(s); }),
            "schedule: override 1 layers: expected first-last with 0 <= first <= last, received 4-3");
}

}  // namespace
}  // namespace fpsa::schedule
