// Training with FPSAttention active, at toy sizes: 4x4x4 tokens in tiles of 2x2x2.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <cmath>

#include "fpsa/base/check.h"
#include "fpsa/io/json.h"
#include "fpsa/train/dit_objective.h"
#include "fpsa/train/loop.h"
#include "tests/tolerance.h"
#include "tests/train/scratch_folder.h"
#include "tests/train/toy_dit.h"

namespace fpsa::train {
namespace {

using pattern::Grid;
using schedule::Quant;

schedule::Schedule schedule_of(const Grid& window, Quant quant, int phases = 3) {
  schedule::Schedule s;
  s.tile = {2, 2, 2};
  for (int i = 0; i < phases; ++i)
    s.phases.push_back({(i + 1.0) / phases, {2, 2, 2}, window, quant});
  return s;
}

Recipe fps_recipe(const schedule::Schedule& schedule, int64_t steps = 1) {
  Recipe recipe = dit_recipe(steps);
  recipe.schedule = schedule;
  recipe.num_inference_steps = 12;
  Stage& stage = recipe.stages[0];
  stage.frames = 13, stage.height = 64, stage.width = 64;
  stage.batch = 6;
  return recipe;
}

// One folder of latents for all tests: encoding costs more than training here.
class FpsTraining : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new ScratchFolder;
    write_vae(folder_->path);
  }
  static void TearDownTestSuite() {
    delete folder_;
    folder_ = nullptr;
  }

  static std::unique_ptr<DitObjective> make(const Recipe& recipe) {
    return std::make_unique<DitObjective>(
        recipe, DitData{folder_->path / "vae", folder_->path / "tokenizer", folder_->path / "latents"});
  }

  // Entered, with noise on every weight: the head starts at zero and would let no gradient through.
  static std::unique_ptr<DitObjective> started(const Recipe& recipe) {
    auto objective = make(recipe);
    at::NoGradGuard no_grad;
    auto generator = at::detail::createCPUGenerator(4);
    for (const auto& [name, weight] : objective->parameters())
      weight.detach().add_(at::randn(weight.sizes(), generator, at::kFloat), 0.1);
    objective->enter(recipe.stages[0], 0, 0);
    return objective;
  }

  static inline ScratchFolder* folder_ = nullptr;
};

TEST_F(FpsTraining, GradientsFlowThroughSparseQuantisedAttention) {
  const auto sparse = started(fps_recipe(schedule_of({1, 1, 1}, Quant::kE4m3)));
  const Recipe dense_recipe = [] {
    Recipe recipe = fps_recipe(schedule_of({1, 1, 1}, Quant::kE4m3));
    recipe.schedule.reset();
    return recipe;
  }();
  const auto dense = started(dense_recipe);
  const Loss loss = sparse->loss(0, 0);
  EXPECT_NEAR(loss.figures.at("density"), 1.0 / 8, 1e-9);
  loss.total.backward();
  dense->loss(0, 0).total.backward();
  for (const char* name : {"transformer.blocks.0.attn1.to_q.weight", "transformer.blocks.0.attn1.to_k.weight",
                           "transformer.blocks.5.attn1.to_v.weight", "transformer.blocks.3.attn1.norm_q.weight"}) {
    const at::Tensor g = sparse->parameters().at(name).grad(), other = dense->parameters().at(name).grad();
    ASSERT_TRUE(g.defined()) << name;
    const double norm = g.norm().item<double>();
    EXPECT_TRUE(std::isfinite(norm) && norm > 0) << name;
    EXPECT_GT((g - other).norm().item<double>(), 0.01 * norm) << name << " is as under dense attention";
  }
}

TEST_F(FpsTraining, TheForwardIsInferencesBitForBit) {
  auto schedule = schedule_of({1, 1, 2}, Quant::kE4m3);
  for (const Quant feed_forward : {Quant::kNone, Quant::kE4m3}) {
    schedule.feed_forward = feed_forward;
    const auto objective = started(fps_recipe(schedule));
    const Loss trained = objective->loss(0, 0);
    at::NoGradGuard no_grad;  // the fused kernels of inference
    const Loss inferred = objective->loss(0, 0);
    for (const char* part : {"flow", "coverage"})
      EXPECT_EQ(trained.figures.at(part), inferred.figures.at(part)) << part << " " << schedule::name(feed_forward);
  }
}

TEST_F(FpsTraining, GradientCheckpointingChangesNoBitOfTheGradients) {
  auto schedule = schedule_of({1, 1, 2}, Quant::kE4m3);
  schedule.phases[1] = {schedule.phases[1].until, {2, 2, 2}, pattern::kFullWindow, Quant::kNone};
  for (const Quant feed_forward : {Quant::kNone, Quant::kE4m3}) {
    schedule.feed_forward = feed_forward;
    Recipe recipe = fps_recipe(schedule);
    const auto plain = started(recipe);
    recipe.gradient_checkpointing = true;
    const auto checkpointed = started(recipe);
    for (const int64_t micro : {0, 1}) {  // the second adds to the gradients of the first
      const Loss a = plain->loss(0, 0, micro), b = checkpointed->loss(0, 0, micro);
      EXPECT_EQ(a.total.item<float>(), b.total.item<float>());
      EXPECT_EQ(a.figures, b.figures);
      a.total.backward();
      b.total.backward();
    }
    for (const auto& [name, weight] : plain->parameters())
      EXPECT_TRUE(at::equal(weight.grad(), checkpointed->parameters().at(name).grad())) << name;
  }
}

TEST_F(FpsTraining, AStepMovesTheProjections) {
  const auto objective = started(fps_recipe(schedule_of({1, 2, 1}, Quant::kE4m3)));
  const at::Tensor weight = objective->parameters().at("transformer.blocks.2.attn1.to_k.weight");
  const at::Tensor before = weight.detach().clone();
  Optimizer optimizer(objective->parameters(), [&](const auto& n, const auto& w) { return objective->is_matrix(n, w); },
                      {});
  objective->loss(0, 0).total.backward();
  EXPECT_TRUE(std::isfinite(optimizer.step(1e-3)));
  EXPECT_GT((weight.detach() - before).norm().item<double>(), 0.0);
}

TEST_F(FpsTraining, OneDensePhaseIsDenseTrainingBitForBit) {
  const Recipe scheduled = fps_recipe(schedule_of(pattern::kFullWindow, Quant::kNone, 1));
  Recipe plain = scheduled;
  plain.schedule.reset();
  const Loss a = started(scheduled)->loss(3, 0), b = started(plain)->loss(3, 0);
  EXPECT_EQ(a.total.item<float>(), b.total.item<float>());
  EXPECT_DOUBLE_EQ(a.figures.at("density"), 1.0);
}

TEST_F(FpsTraining, GroupsByPhaseGiveTheLossOfTheWholeBatch) {
  const Recipe scheduled = fps_recipe(schedule_of(pattern::kFullWindow, Quant::kNone));
  Recipe plain = scheduled;
  plain.schedule.reset();
  const auto grouped = started(scheduled), whole = started(plain);
  for (int64_t step = 0; step < 3; ++step) {
    const Loss a = grouped->loss(step, 0), b = whole->loss(step, 0);
    for (const char* part : {"flow", "coverage"})
      EXPECT_NEAR(a.figures.at(part), b.figures.at(part), tolerance::kRegroupedLoss * b.figures.at(part)) << part;
  }
}

TEST_F(FpsTraining, WindowsNarrowOverTheStage) {
  Recipe recipe = fps_recipe(schedule_of({1, 1, 1}, Quant::kE4m3), 8);
  recipe.stages[0].density_steps = 4;
  const auto objective = started(recipe);
  EXPECT_DOUBLE_EQ(objective->loss(0, 0).figures.at("density"), 1.0);
  EXPECT_DOUBLE_EQ(objective->loss(3, 3).figures.at("density"), 1.0);
  EXPECT_NEAR(objective->loss(4, 4).figures.at("density"), 1.0 / 8, 1e-9);
}

TEST_F(FpsTraining, ResumesExactlyWithScheduleTeacherAndMicroBatches) {
  auto schedule = schedule_of({1, 1, 2}, Quant::kE4m3);
  schedule.phases[1] = {schedule.phases[1].until, {2, 2, 2}, pattern::kFullWindow, Quant::kNone};
  Recipe recipe = fps_recipe(schedule, 3);
  recipe.distill_weight = 0.5;
  recipe.stages[0].batch = 2;
  recipe.stages[0].micro_batches = 2;
  recipe.stages[0].density_steps = 2;
  recipe.stages[0].refresh_every = 0;
  const ScratchFolder whole, split;
  const auto run = [&](const ScratchFolder& out, bool resume, int64_t stop_after) {
    const auto objective = make(recipe);
    run_loop(*objective, recipe, {.out = out.path, .resume = resume, .stop_after = stop_after});
  };
  run(whole, false, 0);
  run(split, false, 2);
  run(split, true, 0);
  const auto a = nn::load_tensors(whole.path / "checkpoint.safetensors").tensors;
  const auto b = nn::load_tensors(split.path / "checkpoint.safetensors").tensors;
  ASSERT_EQ(a.size(), b.size());
  EXPECT_TRUE(a.contains("frozen.transformer.proj_out.weight"));
  for (const auto& [name, tensor] : a)
    EXPECT_TRUE(at::equal(tensor, b.at(name))) << name;
}

TEST_F(FpsTraining, TheTeacherAgreesWithADenseStudentUntilItMoves) {
  Recipe dense_recipe = fps_recipe(schedule_of({1, 1, 1}, Quant::kE4m3));
  dense_recipe.distill_weight = 2.0;
  const auto sparse = started(dense_recipe);
  dense_recipe.schedule.reset();
  const auto dense = started(dense_recipe);
  for (const auto& objective : {sparse.get(), dense.get()})
    for (const auto& [name, tensor] : objective->frozen())
      tensor.detach().copy_(objective->parameters().at(name).detach());
  const Loss same = dense->loss(0, 0), narrowed = sparse->loss(0, 0);
  EXPECT_EQ(same.figures.at("distill"), 0.0);
  EXPECT_GT(narrowed.figures.at("distill"), 0.0);
  EXPECT_NEAR(narrowed.total.item<double>(),
              narrowed.figures.at("flow") + 2.0 * narrowed.figures.at("distill") +
                  dense_recipe.slot_weight * narrowed.figures.at("slots") +
                  dense_recipe.coverage_weight * narrowed.figures.at("coverage"),
              1e-4 * narrowed.total.item<double>());
  narrowed.total.backward();
  for (const auto& [name, tensor] : sparse->frozen())
    EXPECT_FALSE(tensor.grad().defined()) << name;
}

TEST_F(FpsTraining, RefusesAScheduleForAnotherModel) {
  auto schedule = schedule_of({1, 1, 1}, Quant::kE4m3);
  schedule.overrides.resize(1);
  schedule.overrides[0].layers = {{6, 6}};
  schedule.overrides[0].quant = Quant::kNone;
  EXPECT_THROW(make(fps_recipe(schedule)), Error);
}

TEST_F(FpsTraining, CheckpointAndExportCarryTheSchedule) {
  auto schedule = schedule_of({1, 1, 2}, Quant::kE4m3);
  schedule.shift = 4.0;
  const Recipe recipe = fps_recipe(schedule);
  const ScratchFolder out;
  const auto objective = make(recipe);
  run_loop(*objective, recipe, {.out = out.path, .stop = [] { return true; }});
  const auto checkpoint = out.path / "checkpoint.safetensors";
  EXPECT_EQ(schedule::parse_toml(carried_schedule(checkpoint), "checkpoint"), schedule);

  const auto vocabulary = models::wan::Tokenizer::load(folder_->path / "tokenizer").vocab_size();
  const auto read_shift = [] {
    return io::read_json(folder_->path / "scheduler" / "scheduler_config.json").at("flow_shift").get<double>();
  };
  export_pipeline(folder_->path, checkpoint_weights(checkpoint), vocabulary, schedule);
  EXPECT_EQ(schedule::parse_toml(carried_schedule(folder_->path / "transformer"), "folder"), schedule);
  EXPECT_EQ(read_shift(), 4.0);
  export_pipeline(folder_->path, checkpoint_weights(checkpoint), vocabulary);
  EXPECT_EQ(carried_schedule(folder_->path / "transformer"), "");
  EXPECT_EQ(read_shift(), 5.0);
}

}  // namespace
}  // namespace fpsa::train
