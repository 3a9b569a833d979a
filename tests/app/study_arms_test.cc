// The table of arms, the variations of schedules that it is made of, and arms from a file.
#include "fpsa/app/study_arms.h"

#include <gtest/gtest.h>

#include <functional>
#include <set>

#include "fpsa/app/study_variation.h"
#include "fpsa/app/usage_error.h"
#include "fpsa/io/atomic_file.h"
#include "fpsa/pattern/mask.h"
#include "tests/io/scratch.h"

namespace fpsa::app {
namespace {

using pattern::Grid;
using pattern::kAllTiles;

std::string error_of(const std::function<void()>& action) {
  return fpsa::testing::error_of<Error>(action);
}

schedule::Schedule tiny_schedule() {
  return schedule::parse_toml(R"(version = 1
tile = [3, 4, 4]
[[phase]]
until = 0.3
granularity = [3, 4, 4]
window = "all"
quant = "e4m3"
[[phase]]
until = 1.0
granularity = [3, 8, 8]
window = [3, 2, 2]
quant = "e4m3"
[[override]]
layers = [0]
phases = [2]
window = [3, 3, 3]
)",
                              "test");
}

ArmRequest request() {
  ArmRequest out;
  out.model = "models/tiny";
  out.schedule = tiny_schedule();
  out.grid = {9, 16, 16};
  out.judged = true;
  return out;
}

const Arm& arm(const std::vector<Arm>& arms, const std::string& name) {
  for (const auto& a : arms)
    if (a.name == name) return a;
  throw Error("no arm " + name);
}

TEST(StudyArms, TheMainArmsComeFirstAndAloneAreJudgedOverAllPrompts) {
  auto r = request();
  r.trained = {{"fps-trained", "models/fps", std::nullopt}};
  const auto arms = built_in_arms(r);
  const std::vector<std::pair<std::string, std::string>> main = {
      {"dense", "dense"}, {"fp8", "fp8"}, {"sparse", "sta"}, {"fps", "fps"}, {"fps-trained", "fps"}};
  for (size_t i = 0; i < arms.size(); ++i) {
    EXPECT_EQ(arms[i].group == ArmGroup::kMain, i < main.size()) << arms[i].name;
    EXPECT_EQ(arms[i].judged, i < main.size()) << arms[i].name;
    EXPECT_EQ(arms[i].prompts, i < main.size() ? 400 : 32) << arms[i].name;
    EXPECT_EQ(arms[i].schedule.has_value(), i > 0);
    if (i >= main.size()) continue;
    EXPECT_EQ(arms[i].name, main[i].first);
    EXPECT_EQ(arms[i].method, main[i].second);
  }
  EXPECT_TRUE(arm(arms, "fps-trained").trained);
  EXPECT_EQ(arm(arms, "fps-trained").model, "models/fps");
  EXPECT_NE(arm(arms, "fps-trained").label.find("carries no schedule"), std::string::npos);
}

TEST(StudyArms, TrainedWeightsHaveATwinOfTheirScheduleThatIsNotTrained) {
  auto r = request();
  auto own = tiny_schedule();
  own.phases[0].window = {1, 2, 2};
  r.trained = {{"a", "models/a", own}, {"b", "models/b", tiny_schedule()}};
  const auto arms = built_in_arms(r);
  EXPECT_EQ(arm(arms, "a-untrained").schedule, own);
  EXPECT_EQ(arm(arms, "a-untrained").model, "models/tiny");
  EXPECT_FALSE(arm(arms, "a-untrained").trained);
  EXPECT_EQ(arm(arms, "a-untrained").prompts, 400);
  EXPECT_EQ(arm(arms, "b").schedule, arm(arms, "fps").schedule);  // fps is its twin
  EXPECT_EQ(error_of([&] { arm(arms, "b-untrained"); }), "no arm b-untrained");
}

TEST(StudyArms, EveryScheduleIsValidAndEveryArmDoesOtherWork) {
  auto r = request();
  r.full = true;
  r.trained = {{"a", "models/a", tiny_schedule()}};
  for (const Grid& grid : {Grid{9, 16, 16}, Grid{3, 4, 4}, Grid{21, 30, 52}}) {
    r.grid = grid;
    std::set<std::string> names, identities;
    for (const auto& a : built_in_arms(r)) {
      EXPECT_TRUE(names.insert(a.name).second) << a.name;
      EXPECT_TRUE(identities.insert(a.identity().dump()).second) << a.name;
      if (!a.schedule) continue;
      EXPECT_NO_THROW(schedule::validate(*a.schedule)) << a.name;
      EXPECT_NO_THROW(schedule::check_for_grid(*a.schedule, grid)) << a.name;
    }
  }
}

TEST(StudyArms, TheFrontierIsOfUntrainedAndTrainedWeights) {
  auto r = request();
  r.trained = {{"a", "models/a", tiny_schedule()}};
  EXPECT_EQ(error_of([&] { arm(built_in_arms(r), "fps-density-25"); }), "no arm fps-density-25");
  r.full = true;
  const auto arms = built_in_arms(r);
  for (const int percent : {25, 15, 10, 6}) {
    const auto& untrained = arm(arms, join("fps-density-", percent));
    const auto& trained = arm(arms, join("a-density-", percent));
    EXPECT_EQ(trained.model, "models/a");
    EXPECT_EQ(trained.schedule, untrained.schedule);
    EXPECT_TRUE(untrained.judged);
    const double density = window_density(r.grid, {3, 4, 4}, untrained.schedule->phases[0].window);
    EXPECT_NEAR(density, percent / 100.0, 0.03) << percent;
  }
  EXPECT_TRUE(missing_of_frontier(arms).empty());
  r.grid = {3, 8, 8};  // 1x2x2 tiles: a quarter is the least
  EXPECT_EQ(missing_of_frontier(built_in_arms(r)), (std::vector<int>{15, 10, 6}));
}

TEST(StudyArms, TrainedNamesAreCheckedAndUnique) {
  auto r = request();
  r.trained = {{"dense", "x", std::nullopt}};
  EXPECT_EQ(error_of([&] { built_in_arms(r); }), "--trained: expected a name that no other arm has, got 'dense' again");
  r.trained = {{"../up", "x", std::nullopt}};
  EXPECT_NE(error_of([&] { built_in_arms(r); }).find("got '../up'"), std::string::npos);
  r.trained = {{"int8", "x", std::nullopt}};  // an ablation's
  EXPECT_EQ(error_of([&] { built_in_arms(r); }), "--trained: expected a name that no other arm has, got 'int8' again");
}

TEST(StudyArms, CodingsOfPAreEmulatedWhereTheScheduleHasCodes) {
  auto r = request();
  const auto arms = built_in_arms(r);
  for (const auto& [name, coding] : {std::pair{"p-256-forward", ops::PCoding{256, false}},
                                     {"p-256-reverse", {256, true}},
                                     {"p-448-forward", {448, false}},
                                     {"p-448-reverse", {448, true}}}) {
    EXPECT_EQ(arm(arms, name).coding, coding);
    EXPECT_EQ(arm(arms, name).schedule, r.schedule);
    EXPECT_EQ(arm(arms, name).prompts, 32);
  }
  EXPECT_FALSE(arm(arms, "fps").coding);
  r.schedule = with_quant(r.schedule, schedule::Quant::kInt8);
  EXPECT_EQ(error_of([&] { arm(built_in_arms(r), "p-448-forward"); }), "no arm p-448-forward");
}

TEST(StudyArms, OnlyKeepsDenseAndNamesTheNearestArm) {
  const auto arms = built_in_arms(request());
  const auto some = select_arms(arms, {"int8"});
  ASSERT_EQ(some.size(), 2u);
  EXPECT_EQ(some[0].name, "dense");
  EXPECT_EQ(some[1].name, "int8");
  EXPECT_NE(error_of([&] { select_arms(arms, {"spars"}); }).find("did you mean sparse?"), std::string::npos);
}

TEST(StudyVariation, ATileKeepsTheExtentOfWindowsInTokens) {
  const auto varied = with_tile(tiny_schedule(), {3, 8, 2});
  EXPECT_EQ(varied.tile, (Grid{3, 8, 2}));
  EXPECT_EQ(varied.phases[0].window, pattern::kFullWindow);
  EXPECT_EQ(varied.phases[1].window, (Grid{3, 1, 4}));
  EXPECT_EQ(varied.phases[1].granularity, (Grid{3, 8, 8}));
  EXPECT_EQ(*varied.overrides[0].window, (Grid{3, 2, 6}));  // 12 tokens: 1.5 tiles of 8 round up
  EXPECT_EQ(with_tile(tiny_schedule(), {3, 4, 4}), tiny_schedule());
}

TEST(StudyVariation, OnePhaseHoldsThroughoutWithTheOverridesThatHeldInIt) {
  const auto first = one_phase(tiny_schedule(), 0), second = one_phase(tiny_schedule(), 1);
  ASSERT_EQ(first.phases.size(), 1u);
  EXPECT_EQ(first.phases[0].until, 1.0);
  EXPECT_EQ(first.phases[0].window, pattern::kFullWindow);
  EXPECT_TRUE(first.overrides.empty());
  ASSERT_EQ(second.overrides.size(), 1u);
  for (int step = 0; step < 4; ++step)
    for (int layer = 0; layer < 2; ++layer)
      EXPECT_EQ(schedule::setting_for(second, step, 4, layer, 0).window,
                schedule::setting_for(tiny_schedule(), 3, 4, layer, 0).window);
  EXPECT_THROW(one_phase(tiny_schedule(), 2), Error);
}

TEST(StudyVariation, OneSettingReplacesThoseOfOverrides) {
  auto s = tiny_schedule();
  s.overrides.push_back({{}, {{0, 0}}, {}, "dense", Grid{1, 1, 1}, std::nullopt, schedule::Quant::kNone});
  for (int step = 0; step < 4; ++step)
    for (int head = 0; head < 2; ++head) {
      const auto window = schedule::setting_for(with_window(s, {1, 2, 1}), step, 4, 0, head);
      EXPECT_EQ(window.pattern, "sta");
      EXPECT_EQ(window.window, (Grid{1, 2, 1}));
      EXPECT_EQ(schedule::setting_for(with_granularity(s, {3, 2, 2}), step, 4, 0, head).granularity, (Grid{3, 2, 2}));
      EXPECT_EQ(schedule::setting_for(with_quant(s, schedule::Quant::kInt8), step, 4, 0, head).quant,
                schedule::Quant::kInt8);
    }
}

TEST(StudyVariation, TheDensityOfAWindowIsThatOfItsMask) {
  for (const Grid& grid : {Grid{9, 16, 16}, Grid{5, 7, 13}})
    for (const Grid& window : {Grid{1, 1, 1}, Grid{3, 2, 2}, Grid{2, 3, kAllTiles}}) {
      const Grid tile{3, 4, 4};
      const auto mask = pattern::sliding_tile(grid, tile, window);
      EXPECT_NEAR(window_density(grid, tile, window), pattern::density(mask, pattern::TileOrder(grid, tile)), 1e-12);
    }
  EXPECT_EQ(window_near_density({9, 16, 16}, {3, 4, 4}, 1.0), (Grid{3, 4, 4}));
}

class ArmsFile : public ::testing::Test {
 protected:
  std::vector<Arm> read(const std::string& text) {
    io::write_file(path_, text);
    auto arms = built_in_arms(request());
    add_arms_of_file(path_, request(), arms);
    return arms;
  }
  fpsa::testing::ScratchFolder scratch_;
  std::filesystem::path path_ = scratch_.path() / "arms.toml";
};

TEST_F(ArmsFile, AddsArmsWithTheirVariations) {
  const auto arms = read(R"([[arm]]
name = "narrow"
method = "fps"
phase = 2
window = [1, "all", 1]
quant = "int8"
prompts = 7
judge = true
[[arm]]
name = "other"
method = "sta"
model = "elsewhere"
)");
  const auto& narrow = arm(arms, "narrow");
  EXPECT_EQ(narrow.group, ArmGroup::kOwn);
  EXPECT_EQ(narrow.prompts, 7);
  EXPECT_TRUE(narrow.judged);
  ASSERT_EQ(narrow.schedule->phases.size(), 1u);
  EXPECT_EQ(narrow.schedule->phases[0].window, (Grid{1, kAllTiles, 1}));
  EXPECT_EQ(narrow.schedule->phases[0].quant, schedule::Quant::kInt8);
  EXPECT_EQ(arm(arms, "other").model, scratch_.path() / "elsewhere");
  EXPECT_EQ(arm(arms, "other").prompts, 32);
}

TEST_F(ArmsFile, FaultsAreNamedWithTheirLine) {
  const std::pair<std::string, std::string> cases[] = {
      {"[[arm]]\nname = 'a'\nmethod = 'fast'\n", ":3: method: expected one of dense, sta, fp8, int8, fps, got 'fast'"},
      {"[[arm]]\nname = 'a'\nmethod = 'fps'\nwindw = [1, 1, 1]\n", ":4: windw: expected one of name,"},
      {"[[arm]]\nmethod = 'fps'\n", ":1: name: expected one in every [[arm]]"},
      {"[[arm]]\nname = 'fps'\nmethod = 'fps'\n", "name: expected one that no other arm has, got 'fps' again"},
      {"[[arm]]\nname = 'a b'\nmethod = 'fps'\n", "got 'a b'"},
      {"[[arm]]\nname = 'a'\nmethod = 'fps'\nwindow = [1, 0, 1]\n", ":4: window: expected extents from 1 on"},
      {"[[arm]]\nname = 'a'\nmethod = 'fps'\nphase = 3\n", ":4: phase: expected 1 to 2 of this schedule, got 3"},
      {"[[arm]]\nname = 'a'\nmethod = 'dense'\ntile = [1, 1, 1]\n", "tile: expected none beside method = 'dense'"},
      {"[[arm]]\nname = 'a'\nmethod = 'fps'\ngranularity = [2, 4, 4]\n", "granularity"},
      {"[[arm]]\nname = 'a'\nmethod = 'fps'\nquant = 'fp4'\n", ":4: quant: expected none, e4m3 or int8, got 'fp4'"},
      {"[[arm]\n", "expected TOML"},
      {"arm = 3\n", "expected [[arm]] tables"},
      {"[other]\n", "expected [[arm]] tables only"},
  };
  for (const auto& [text, words] : cases) {
    const auto error = error_of([&] { read(text); });
    EXPECT_NE(error.find(words), std::string::npos) << text << error;
    EXPECT_NE(error.find("arms.toml"), std::string::npos) << error;
  }
}

}  // namespace
}  // namespace fpsa::app
