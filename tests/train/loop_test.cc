#include "fpsa/train/loop.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <fstream>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>

#include "fpsa/base/check.h"
#include "tests/io/scratch.h"
#include "tests/train/scratch_folder.h"

namespace fpsa::train {
namespace {

using testing::error_of;
using testing::read_raw;

// Fits y = A x + b to a random map, from noise that follows from the step number.
class Regression : public Objective {
 public:
  explicit Regression(std::string offset_name = "b") : offset_name_(std::move(offset_name)) {
    auto generator = at::detail::createCPUGenerator(1);
    parameters_ = {{"a", at::randn({12, 16}, generator, at::kFloat).requires_grad_(true)},
                   {offset_name_, at::zeros({12}).requires_grad_(true)}};
    truth_ = at::randn({12, 16}, generator, at::kFloat);
  }
  const nn::TensorMap& parameters() const override { return parameters_; }
  bool is_matrix(const std::string& name, const at::Tensor&) const override { return name == "a"; }
  void enter(const Stage&, int64_t index, int64_t stage_step) override { entered.push_back({index, stage_step}); }
  nn::TensorMap frozen() const override { return frozen_; }
  void keep_start() { frozen_ = {{"a", at::zeros({12, 16})}}; }
  Loss loss(int64_t step, int64_t, int64_t micro = 0) override {
    auto generator = at::detail::createCPUGenerator(mix(9, static_cast<uint64_t>(step), static_cast<uint64_t>(micro)));
    const at::Tensor x = at::randn({8, 16}, generator, at::kFloat);
    at::Tensor total =
        at::mse_loss(at::linear(x, parameters_.at("a"), parameters_.at(offset_name_)), at::linear(x, truth_));
    if (step >= poisoned_from && step < poisoned_to && micro == poisoned_micro)
      total = total * std::numeric_limits<float>::quiet_NaN();
    return {total, 8, {{"error", total.item<double>()}}};
  }
  Figures evaluate(const std::filesystem::path&, const std::string&, bool final) override { return {{"final", final}}; }

  std::vector<std::pair<int64_t, int64_t>> entered;
  int64_t poisoned_from = std::numeric_limits<int64_t>::max(), poisoned_to = poisoned_from, poisoned_micro = 0;

 private:
  std::string offset_name_;
  nn::TensorMap parameters_, frozen_;
  at::Tensor truth_;
};

Recipe recipe_of(std::initializer_list<int64_t> steps) {
  Recipe recipe;
  recipe.kind = Kind::kDit;
  recipe.log_seconds = 0;
  recipe.preview_minutes = 0;
  recipe.warmup_steps = 2;
  for (const int64_t count : steps) {
    Stage stage;
    stage.steps = count;
    stage.learning_rate = {0.3, 0.02};
    recipe.stages.push_back(stage);
  }
  return recipe;
}

void expect_same_checkpoint(const std::filesystem::path& a, const std::filesystem::path& b) {
  const auto x = nn::load_tensors(a / "checkpoint.safetensors").tensors,
             y = nn::load_tensors(b / "checkpoint.safetensors").tensors;
  ASSERT_EQ(x.size(), y.size());
  for (const auto& [name, tensor] : x)
    EXPECT_TRUE(at::equal(tensor, y.at(name))) << name;
}

TEST(Loop, SixStepsEqualThreePlusResumePlusThree) {
  for (const int threads : {1, 2}) {
    at::set_num_threads(threads);
    const ScratchFolder whole, split;
    const Recipe recipe = recipe_of({4, 2});
    Regression first, second, third;
    EXPECT_TRUE(run_loop(first, recipe, {.out = whole.path}).finished);
    const auto stopped = run_loop(second, recipe, {.out = split.path, .stop_after = 3});
    EXPECT_FALSE(stopped.finished);
    EXPECT_EQ(stopped.steps, 3);
    const auto done = run_loop(third, recipe, {.out = split.path, .resume = true});
    EXPECT_TRUE(done.finished);
    EXPECT_EQ(done.steps, 6);
    EXPECT_EQ(third.entered, (std::vector<std::pair<int64_t, int64_t>>{{0, 3}, {1, 0}}));
    expect_same_checkpoint(whole.path, split.path);
  }
  at::set_num_threads(1);
}

TEST(Loop, LearnsAndWritesMetricsAsJsonLines) {
  const ScratchFolder folder;
  Regression objective;
  run_loop(objective, recipe_of({60}), {.out = folder.path});
  std::ifstream in(folder.path / "metrics.jsonl");
  std::vector<double> errors;
  bool final = false;
  for (std::string line; std::getline(in, line);) {
    const auto json = nlohmann::json::parse(line);
    if (json.contains("error")) errors.push_back(json["error"]);
    final = final || json.contains("final");
  }
  ASSERT_GT(errors.size(), 2u);
  EXPECT_LT(errors.back(), 0.5 * errors.front());
  EXPECT_TRUE(final);
}

TEST(Loop, StopsWithACheckpointWhenAsked) {
  const ScratchFolder folder;
  Regression objective;
  int asked = 0;
  const auto result = run_loop(objective, recipe_of({100}), {.out = folder.path, .stop = [&] { return ++asked > 5; }});
  EXPECT_FALSE(result.finished);
  EXPECT_EQ(result.steps, 5);
  EXPECT_TRUE(std::filesystem::exists(folder.path / "checkpoint.safetensors"));
}

TEST(Loop, StartsFromTheAverageOfAnotherCheckpoint) {
  const ScratchFolder first_folder, second_folder;
  Regression first, second;
  run_loop(first, recipe_of({5}), {.out = first_folder.path});
  run_loop(second, recipe_of({5}),
           {.out = second_folder.path,
            .weights = checkpoint_weights(first_folder.path / "checkpoint.safetensors"),
            .stop = [] { return true; }});
  const auto average = checkpoint_weights(first_folder.path / "checkpoint.safetensors");
  const auto start = checkpoint_weights(second_folder.path / "checkpoint.safetensors", /*averaged=*/false);
  EXPECT_TRUE(at::equal(average.at("a"), start.at("a")));
}

TEST(Loop, AnExportMayLackHelpersButNothingElse) {
  const ScratchFolder first_folder, second_folder;
  Regression with_helper("helper.b"), other("c");
  const at::Tensor start = at::full({12, 16}, 0.5);
  run_loop(with_helper, recipe_of({5}),
           {.out = first_folder.path, .weights = {{"a", start}}, .stop = [] { return true; }});
  EXPECT_TRUE(at::equal(with_helper.parameters().at("a").detach(), start));
  EXPECT_THROW(run_loop(other, recipe_of({5}), {.out = second_folder.path, .weights = {{"a", start}}}), Error);
}

TEST(Loop, RefusesWhatItCannotResume) {
  const ScratchFolder folder;
  Regression objective;
  const auto failure = [&](const Recipe& recipe) -> std::string {
    try {
      Regression fresh;
      run_loop(fresh, recipe, {.out = folder.path, .resume = true});
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_NE(failure(recipe_of({4})).find("nothing to resume"), std::string::npos);
  run_loop(objective, recipe_of({2}), {.out = folder.path});
  Recipe other = recipe_of({4});
  other.seed = 5;
  EXPECT_NE(failure(other).find("seed 1"), std::string::npos);
  other.seed = 1;
  other.kind = Kind::kVae;
  EXPECT_NE(failure(other).find("kind 'dit'"), std::string::npos);
  other = recipe_of({2});
  other.text = "another recipe";
  EXPECT_NE(failure(other).find("--weights"), std::string::npos);
  const auto file = folder.path / "checkpoint.safetensors";
  const auto whole = nn::load_tensors(file);
  for (const auto& [key, value] :
       {std::pair("stage", "7"), std::pair("step", "-1"), std::pair("total_seconds", "nan")}) {
    auto metadata = whole.metadata;
    metadata[key] = value;
    nn::save_tensors(folder.path / "damaged.safetensors", whole.tensors, metadata);
    std::filesystem::rename(folder.path / "damaged.safetensors", file);
    EXPECT_NE(failure(recipe_of({2})).find(std::string("'") + key + "'"), std::string::npos) << key;
  }
  auto older = whole.metadata;  // from before the recipe was kept: resumed whatever the recipe says
  older.erase("recipe");
  nn::save_tensors(folder.path / "older.safetensors", whole.tensors, older);
  std::filesystem::rename(folder.path / "older.safetensors", file);
  EXPECT_EQ(failure(other), "");
  std::ofstream(folder.path / "checkpoint.safetensors") << "not a checkpoint";
  EXPECT_NE(failure(recipe_of({4})), "");
}

TEST(Loop, RefusesToResumeUnderAnotherSchedule) {
  const ScratchFolder folder;
  Recipe recipe = recipe_of({4});
  recipe.schedule = schedule::default_schedule();
  Regression first, second, third;
  run_loop(first, recipe, {.out = folder.path, .stop_after = 2});
  recipe.schedule->phases[0].until = 0.3;
  EXPECT_THROW(run_loop(second, recipe, {.out = folder.path, .resume = true}), Error);
  recipe.schedule = std::nullopt;
  EXPECT_THROW(run_loop(second, recipe, {.out = folder.path, .resume = true}), Error);
  recipe.schedule = schedule::default_schedule();
  EXPECT_TRUE(run_loop(third, recipe, {.out = folder.path, .resume = true}).finished);
}

TEST(Loop, MicroBatchesMakeOneStepOfTheirMeanGradient) {
  const ScratchFolder folder;
  Recipe recipe = recipe_of({1});
  recipe.muon = false;
  recipe.optimizer.clip_norm = 0;
  recipe.stages[0].micro_batches = 3;
  Regression objective, by_hand;
  run_loop(objective, recipe, {.out = folder.path});
  Optimizer optimizer(
      by_hand.parameters(), [](const auto&, const auto&) { return false; }, recipe.optimizer);
  at::Tensor mean = at::zeros({});
  for (int64_t micro = 0; micro < 3; ++micro)
    mean = mean + by_hand.loss(0, 0, micro).total / 3;
  mean.backward();
  optimizer.step(0.5 * recipe.stages[0].learning_rate[0]);  // the first of two warm-up steps
  for (const auto& [name, weight] : objective.parameters())
    EXPECT_LT((weight - by_hand.parameters().at(name)).abs().max().item<double>(), 1e-5) << name;
}

// Lines of metrics.jsonl with what was printed.
struct Report {
  std::vector<nlohmann::json> metrics;
  std::string printed;
};

Report run_reported(Regression& objective, const Recipe& recipe, LoopOptions options) {
  Report report;
  options.print = [&](const std::string& line) { report.printed += line + "\n"; };
  run_loop(objective, recipe, options);
  std::ifstream in(options.out / "metrics.jsonl");
  for (std::string line; std::getline(in, line);)
    report.metrics.push_back(nlohmann::json::parse(line));
  return report;
}

TEST(Loop, SkipsCountsAndReportsStepsThatAreNotFinite) {
  for (const int64_t micro : {0, 1}) {  // with the second, the first one's gradients must not leak into the next step
    const ScratchFolder folder;
    Recipe recipe = recipe_of({6});
    recipe.stages[0].micro_batches = 2;
    Regression objective, witness;
    objective.poisoned_from = 2, objective.poisoned_to = 4, objective.poisoned_micro = micro;
    const Report report = run_reported(objective, recipe, {.out = folder.path});
    EXPECT_EQ(report.metrics.back().at("skipped"), 2);
    EXPECT_NE(report.printed.find("step 3: non-finite loss, skipped; 2 in a row, 2 in all"), std::string::npos)
        << report.printed;
    const ScratchFolder before;
    witness.poisoned_from = 2;
    recipe.non_finite_limit = 2;
    EXPECT_THROW(run_loop(witness, recipe, {.out = before.path}), Error);
    Regression clean;
    recipe.non_finite_limit = 20;
    run_loop(clean, recipe, {.out = before.path, .stop_after = 2});
    EXPECT_TRUE(at::equal(clean.parameters().at("a"), witness.parameters().at("a")));
  }
}

TEST(Loop, ResumeKeepsTheCountersOfSkippedSteps) {
  const ScratchFolder whole, split;
  Recipe recipe = recipe_of({8});
  recipe.non_finite_limit = 5;
  const auto poisoned = [](int64_t to) {
    auto objective = std::make_unique<Regression>();
    objective->poisoned_from = 2, objective->poisoned_to = to;
    return objective;
  };
  run_loop(*poisoned(6), recipe, {.out = whole.path});
  run_loop(*poisoned(6), recipe, {.out = split.path, .stop_after = 4});
  const auto resumed = poisoned(6);
  const Report report = run_reported(*resumed, recipe, {.out = split.path, .resume = true});
  EXPECT_EQ(report.metrics.back().at("skipped"), 4);
  expect_same_checkpoint(whole.path, split.path);
  // Two before the stop and three after it are five in a row.
  const ScratchFolder third;
  run_loop(*poisoned(8), recipe, {.out = third.path, .stop_after = 4});
  EXPECT_THROW(run_loop(*poisoned(8), recipe, {.out = third.path, .resume = true}), Error);
}

TEST(Loop, FrozenTensorsKeepTheStartThroughAResume) {
  const ScratchFolder folder;
  Regression first, second;
  first.keep_start(), second.keep_start();
  const at::Tensor start = first.parameters().at("a").detach().clone();
  run_loop(first, recipe_of({6}), {.out = folder.path, .stop_after = 3});
  EXPECT_TRUE(at::equal(first.frozen().at("a"), start));
  EXPECT_FALSE(at::equal(first.parameters().at("a").detach(), start));
  run_loop(second, recipe_of({6}), {.out = folder.path, .resume = true});
  EXPECT_TRUE(at::equal(second.frozen().at("a"), start));
}

TEST(Loop, GivesUpOnLossesThatStayNonFinite) {
  const ScratchFolder folder;
  Regression objective;
  objective.poisoned_from = 3;
  EXPECT_THROW(run_loop(objective, recipe_of({100}), {.out = folder.path}), Error);
}

TEST(Loop, AFullDiskIsNamedAndTheOlderCheckpointSurvives) {
  const ScratchFolder folder;
  Recipe recipe = recipe_of({8});
  recipe.checkpoint_seconds = 0;
  const auto checkpoint = folder.path / "checkpoint.safetensors", metrics = folder.path / "metrics.jsonl";
  Regression first, second, third;
  run_loop(first, recipe, {.out = folder.path, .stop_after = 3});
  const std::string before = read_raw(checkpoint);
  const auto failure_under = [&](size_t bytes) {
    Regression objective;
    const testing::FileSizeLimit limit(bytes);
    return error_of<Error>([&] { run_loop(objective, recipe, {.out = folder.path, .resume = true}); });
  };
  ASSERT_GT(before.size(), read_raw(metrics).size() + 1000) << "for the checkpoint to fail and not the metrics";
  // The metadata tells seconds, whose digits differ from step to step by a few bytes.
  const std::string failure = failure_under(before.size() - 500);
  FPSA_EXPECT_CONTAINS(failure, checkpoint.string());
  FPSA_EXPECT_CONTAINS(failure, "ulimit -f");
  EXPECT_EQ(read_raw(checkpoint), before);
  EXPECT_EQ(testing::count_files(folder.path), 3u) << "checkpoint, metrics and previews; nothing half-written";

  const std::string told = read_raw(metrics);
  FPSA_EXPECT_CONTAINS(failure_under(told.size()), metrics.string());
  EXPECT_EQ(read_raw(metrics), told);
  EXPECT_EQ(read_raw(checkpoint), before);

  // With room again the run goes on as if nothing had been.
  const ScratchFolder whole;
  EXPECT_TRUE(run_loop(second, recipe, {.out = folder.path, .resume = true}).finished);
  run_loop(third, recipe, {.out = whole.path});
  expect_same_checkpoint(folder.path, whole.path);
}

TEST(Loop, ResumptionsAreMarkedAndProgressIsTold) {
  const ScratchFolder folder;
  Regression first, second;
  std::vector<RunState> told;
  const auto observe = [&](RunState state) { told.push_back(state); };
  run_loop(first, recipe_of({6}), {.out = folder.path, .stop_after = 3, .observe = observe});
  ASSERT_GT(told.size(), 1u);
  EXPECT_EQ(told.front(), RunState::kRunning);
  EXPECT_EQ(told.back(), RunState::kStopped);
  const Report report = run_reported(second, recipe_of({6}), {.out = folder.path, .resume = true, .observe = observe});
  EXPECT_EQ(told.back(), RunState::kFinished);
  std::vector<std::pair<std::string, int64_t>> runs;
  for (const auto& line : report.metrics) {
    if (line.contains("run")) runs.emplace_back(line["run"], line["step"]);
    if (!line.contains("learning_rate")) continue;
    EXPECT_GT(line.at("progress"), 0.0);
    EXPECT_GE(line.at("eta_seconds"), 0.0);
  }
  EXPECT_EQ(runs, (std::vector<std::pair<std::string, int64_t>>{{"begun", 0}, {"resumed", 3}}));
}

}  // namespace
}  // namespace fpsa::train
