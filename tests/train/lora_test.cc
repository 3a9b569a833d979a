// Adapters while they are trained: they start as nothing, alone get gradients, and merge to what they computed.
#include "fpsa/train/lora.h"

#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "fpsa/accel/methods.h"
#include "fpsa/base/check.h"
#include "fpsa/io/image.h"
#include "fpsa/io/json.h"
#include "fpsa/io/video.h"
#include "fpsa/models/wan/model.h"
#include "fpsa/nn/checkpoint.h"
#include "fpsa/train/clips.h"
#include "fpsa/train/export.h"
#include "fpsa/train/finetune_objective.h"
#include "fpsa/train/loop.h"
#include "tests/io/scratch.h"
#include "tests/tolerance.h"

namespace fpsa::train {
namespace {

namespace fs = std::filesystem;
using testing::error_of;
using testing::ScratchFolder;

Recipe recipe_of(std::optional<LoraConfig> lora, int64_t steps) {
  Recipe recipe;
  recipe.kind = Kind::kDit;
  recipe.lora = lora;
  recipe.preview_minutes = 0;
  recipe.preview_prompts = 0;
  recipe.warmup_steps = 1;
  recipe.optimizer.ema = 0;
  Stage stage;
  stage.frames = 5, stage.height = 32, stage.width = 32;
  stage.batch = 2;
  stage.steps = steps;
  stage.learning_rate = {1e-3, 1e-3};
  stage.pool_start = 16, stage.pool_clips = 16, stage.refresh_every = 0;
  recipe.stages = {stage};
  return recipe;
}

LoraConfig small_lora() {
  LoraConfig lora;
  lora.rank = 4;
  lora.alpha = 8;
  return lora;
}

at::Tensor velocity_of(models::wan::WanDit& dit) {
  const at::NoGradGuard no_grad;
  nn::DenoiserInput input;
  input.latents = at::linspace(-1, 1, 8 * 2 * 4 * 4, at::kFloat).view({1, 8, 2, 4, 4});
  input.timestep = at::full({1}, 500.0, at::kFloat);
  input.text = at::linspace(-1, 1, 6 * 128, at::kFloat).view({1, 6, 128});
  return dit.predict(input, *accel::make_dense()).to(at::kFloat);
}

std::unique_ptr<models::wan::WanDit> tiny_dit(const std::vector<models::wan::LoraFile>& loras) {
  models::wan::LoadOptions options;
  options.dtype = at::kFloat;
  options.text_encoder = options.vae = false;
  options.loras = loras;
  return models::wan::load_model("models/tiny", options).transformer;
}

// models/tiny's transformer with adapters beside its F32 weights.
struct Adapted {
  explicit Adapted(const LoraConfig& config) {
    const auto place = models::wan::find_model("models/tiny");
    nn::CheckpointSource stored(nn::load_tensors("models/tiny/transformer").tensors, at::kFloat);
    AdapterSource source(stored, config, "transformer.", 3);
    dit = std::make_unique<models::wan::WanDit>(
        models::wan::DitConfig::from_json(io::read_json("models/tiny/transformer/config.json")), nn::Scope(source));
    adapters = source.finish();
    stored.finish();
  }
  std::unique_ptr<models::wan::WanDit> dit;
  nn::TensorMap adapters;
};

TEST(AdapterSource, StartsAsTheModelItself) {
  Adapted adapted(small_lora());
  EXPECT_TRUE(at::equal(velocity_of(*adapted.dit), velocity_of(*tiny_dit({}))));
  // 6 layers of two attentions with four projections, and two more in the feed-forward; two halves each.
  EXPECT_EQ(adapted.adapters.size(), 6u * (2 * 4 + 2) * 2);
  const at::Tensor& a = adapted.adapters.at("transformer.blocks.5.attn2.to_out.0.lora_A.weight");
  EXPECT_EQ(a.sizes(), (std::vector<int64_t>{4, 256}));
  EXPECT_LE(a.abs().max().item<double>(), 1.0 / 16);
  EXPECT_GT(a.abs().max().item<double>(), 0.9 / 16);
  EXPECT_EQ(adapted.adapters.at("transformer.blocks.5.ffn.net.2.lora_B.weight").abs().max().item<double>(), 0);
}

TEST(AdapterSource, MergingAWrittenFileGivesWhatTheAdaptersCompute) {
  ScratchFolder scratch;
  Adapted adapted(small_lora());
  {
    const at::NoGradGuard no_grad;
    for (const auto& [name, tensor] : adapted.adapters)
      tensor.detach().normal_(0, 0.05);
  }
  write_lora(scratch / "my.safetensors", adapted.adapters, small_lora());
  const at::Tensor beside = velocity_of(*adapted.dit);
  const at::Tensor merged = velocity_of(*tiny_dit({{scratch / "my.safetensors", 1.0}}));
  const at::Tensor plain = velocity_of(*tiny_dit({}));
  const double moved = (beside - plain).norm().item<double>();
  EXPECT_GT(moved, 0.05 * plain.norm().item<double>()) << "the adapters must matter for this test to mean anything";
  EXPECT_LT((beside - merged).norm().item<double>(), tolerance::kMergedLora * moved);
  // Twice at half the scale is once.
  const at::Tensor halves =
      velocity_of(*tiny_dit({{scratch / "my.safetensors", 0.5}, {scratch / "my.safetensors", 0.5}}));
  EXPECT_LT((beside - halves).norm().item<double>(), tolerance::kMergedLora * moved);
  EXPECT_TRUE(at::equal(velocity_of(*tiny_dit({{scratch / "my.safetensors", 0.0}})), plain));
}

TEST(AdapterSource, TargetsAndRanksThatDoNotFitAreNamed) {
  LoraConfig config = small_lora();
  config.targets = {"attn1.to_q", "to_z", "ffn"};
  const std::string message = error_of<Error>([&] { Adapted adapted(config); });
  FPSA_EXPECT_CONTAINS(message, "no layer is named 'to_z', 'ffn'");
  FPSA_EXPECT_CONTAINS(message, "attn1.to_out.0");
  config = small_lora();
  config.rank = 257;
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { Adapted adapted(config); }), "lora.rank: expected at most 256");
  config = small_lora();
  config.targets = {"blocks.0.attn1.to_q"};
  EXPECT_EQ(Adapted(config).adapters.size(), 2u);
}

TEST(WriteLora, RefusesWhatIsNoAdapter) {
  ScratchFolder scratch;
  const auto message = [&](const nn::TensorMap& tensors) {
    return error_of<Error>([&] { write_lora(scratch / "a.safetensors", tensors, small_lora()); });
  };
  FPSA_EXPECT_CONTAINS(message({}), "received none");
  FPSA_EXPECT_CONTAINS(message({{"transformer.x.weight", at::zeros({4, 4})}}), "'transformer.x.weight'");
  FPSA_EXPECT_CONTAINS(message({{"transformer.x.lora_A.weight", at::zeros({3, 9})}}), "adapter of rank 4");
  EXPECT_EQ(testing::count_files(scratch.path()), 0u);
}

TEST(FinetuneObjective, LoraTrainsTheAdaptersAlone) {
  ScratchFolder scratch;
  const Recipe recipe = recipe_of(small_lora(), 12);
  FinetuneObjective objective(recipe, {"models/tiny", scratch / "cache", scratch / "latents"});
  for (const auto& [name, tensor] : objective.parameters()) {
    EXPECT_NE(name.find(".lora_"), std::string::npos) << name;
    EXPECT_FALSE(objective.is_matrix(name, tensor));
  }
  LoopOptions loop;
  loop.out = scratch / "run";
  std::vector<double> tests;
  objective.enter(recipe.stages[0], 0, 0);
  {
    const at::NoGradGuard no_grad;
    tests.push_back(objective.evaluate({}, "", true).at("flow_fixed"));
  }
  EXPECT_TRUE(run_loop(objective, recipe, loop).finished);
  const at::NoGradGuard no_grad;
  tests.push_back(objective.evaluate({}, "", true).at("flow_fixed"));
  EXPECT_NE(tests[0], tests[1]);
  EXPECT_EQ(checkpoint_weights(loop.out / "checkpoint.safetensors").size(), objective.parameters().size());
}

TEST(FinetuneObjective, AdaptersTrainUnderASchedule) {
  ScratchFolder scratch;
  Recipe recipe = recipe_of(small_lora(), 1);
  recipe.stages[0].frames = 13, recipe.stages[0].height = 64, recipe.stages[0].width = 64;
  recipe.stages[0].batch = 4;
  schedule::Schedule schedule;
  schedule.tile = {2, 2, 2};
  schedule.feed_forward = schedule::Quant::kE4m3;
  schedule.phases = {{0.5, {2, 2, 2}, pattern::Grid{1, 1, 1}, schedule::Quant::kE4m3},
                     {1.0, {2, 2, 2}, pattern::Grid{2, 2, 2}, schedule::Quant::kNone}};
  recipe.schedule = schedule;
  const FinetunePaths paths = {"models/tiny", scratch / "cache", scratch / "latents"};
  FinetuneObjective objective(recipe, paths);
  recipe.gradient_checkpointing = true;
  FinetuneObjective checkpointed(recipe, paths);
  for (FinetuneObjective* each : {&objective, &checkpointed})
    each->enter(recipe.stages[0], 0, 0);
  const Loss loss = objective.loss(0, 0);
  checkpointed.loss(0, 0).total.backward();
  EXPECT_GT(loss.figures.at("density"), 0.12);
  EXPECT_LE(loss.figures.at("density"), 1.0);
  loss.total.backward();
  for (const auto& [name, tensor] : objective.parameters()) {
    ASSERT_TRUE(tensor.grad().defined()) << name;
    // B starts at zero, so A's first gradient is exactly zero.
    EXPECT_EQ(tensor.grad().abs().max().item<double>() > 0, name.find("lora_B") != std::string::npos) << name;
    EXPECT_TRUE(at::equal(tensor.grad(), checkpointed.parameters().at(name).grad())) << name;
  }
}

TEST(FinetuneObjective, TheTeacherOfAdaptersIsTheModelWithoutThem) {
  ScratchFolder scratch;
  Recipe recipe = recipe_of(small_lora(), 1);
  recipe.distill_weight = 2.0;
  FinetuneObjective objective(recipe, {"models/tiny", scratch / "cache", scratch / "latents"});
  EXPECT_TRUE(objective.frozen().empty()) << "a second copy of the weights";
  objective.enter(recipe.stages[0], 0, 0);
  const Loss start = objective.loss(0, 0);
  EXPECT_EQ(start.figures.at("distill"), 0.0);
  {
    const at::NoGradGuard no_grad;
    for (const auto& [name, tensor] : objective.parameters())
      tensor.detach().normal_(0, 0.05);
  }
  const Loss moved = objective.loss(0, 0);
  EXPECT_GT(moved.figures.at("distill"), 0.0);
  EXPECT_FLOAT_EQ(moved.total.item<float>(),
                  static_cast<float>(moved.figures.at("flow") + 2.0 * moved.figures.at("distill")));
  moved.total.backward();
  for (const auto& [name, tensor] : objective.parameters())
    EXPECT_TRUE(tensor.grad().defined()) << name;
}

TEST(FinetuneObjective, TheTeacherOfAWholeTransformerKeepsItsStart) {
  ScratchFolder scratch;
  const Clip clip = render(random_spec(1, false), 5, 32, 32);
  fs::create_directories(scratch / "videos");
  io::write_mp4(scratch / "videos" / "a.mp4", {5, 32, 32, 16, clip.rgb}, {.crf = 1, .comment = ""});
  testing::write_raw(scratch / "videos" / "captions.csv", "file,caption\na.mp4,a video\n");
  Recipe recipe = recipe_of(std::nullopt, 3);
  recipe.data = DataConfig{.folder = scratch / "videos", .captions = {}, .cache = {}};
  recipe.distill_weight = 0.5;
  recipe.log_seconds = 0;
  const auto run = [&](const char* out, bool resume, int64_t stop_after) {
    FinetuneObjective objective(recipe, {"models/tiny", scratch / "cache", scratch / "latents"});
    run_loop(objective, recipe, {.out = scratch / out, .resume = resume, .stop_after = stop_after});
    return objective.frozen().at("transformer.proj_out.weight").clone();
  };
  const at::Tensor teacher = run("whole", false, 0);
  EXPECT_TRUE(
      at::equal(teacher, nn::load_tensors("models/tiny/transformer").tensors.at("proj_out.weight").to(at::kFloat)));
  std::vector<double> distill;
  for (std::ifstream in(scratch / "whole" / "metrics.jsonl"); in;)
    if (std::string line; std::getline(in, line))
      if (const auto json = nlohmann::json::parse(line); json.contains("distill")) distill.push_back(json["distill"]);
  ASSERT_EQ(distill.size(), 3u);
  EXPECT_EQ(distill[0], 0.0) << "dense and unchanged, the student is its teacher";
  EXPECT_GT(distill[2], 0.0);
  run("split", false, 1);
  EXPECT_TRUE(at::equal(run("split", true, 0), teacher));
  const auto x = nn::load_tensors(scratch / "whole" / "checkpoint.safetensors").tensors,
             y = nn::load_tensors(scratch / "split" / "checkpoint.safetensors").tensors;
  for (const auto& [name, tensor] : x)
    EXPECT_TRUE(at::equal(tensor, y.at(name))) << name;
}

TEST(WriteLora, TheFileCarriesTheScheduleThatItWasTrainedWith) {
  ScratchFolder scratch;
  Adapted adapted(small_lora());
  write_lora(scratch / "plain.safetensors", adapted.adapters, small_lora());
  EXPECT_EQ(carried_schedule(scratch / "plain.safetensors"), "");
  schedule::Schedule schedule = schedule::default_schedule();
  schedule.shift = 4.5;
  write_lora(scratch / "scheduled.safetensors", adapted.adapters, small_lora(), schedule);
  EXPECT_EQ(schedule::parse_toml(carried_schedule(scratch / "scheduled.safetensors"), "the file"), schedule);
  EXPECT_EQ(models::wan::lora_metadata({scratch / "scheduled.safetensors"}).at(std::string(schedule::kMetadataKey)),
            schedule::to_toml(schedule));
}

TEST(FinetuneObjective, PreviewsShowTheSamePromptsEveryTime) {
  ScratchFolder scratch;
  Recipe recipe = recipe_of(small_lora(), 1);
  recipe.preview_prompts = 2;
  recipe.preview_steps = 2;
  const FinetunePaths paths = {"models/tiny", scratch / "cache", scratch / "latents"};
  const auto sheet = [&](FinetuneObjective& objective, const char* tag) {
    const at::NoGradGuard no_grad;
    objective.evaluate(scratch.path(), tag, false);
    return io::read_png(scratch / (std::string(tag) + ".png"));
  };
  FinetuneObjective objective(recipe, paths);
  objective.enter(recipe.stages[0], 0, 0);
  const io::Image first = sheet(objective, "first"), again = sheet(objective, "again");
  EXPECT_EQ(first.rgb, again.rgb);
  {
    const at::NoGradGuard no_grad;
    for (const auto& [name, tensor] : objective.parameters())
      tensor.detach().normal_(0, 0.1);
  }
  EXPECT_NE(sheet(objective, "moved").rgb, first.rgb);
  // Prompts of the recipe's own: three rows instead of two, with gaps between.
  recipe.prompts = {"a red circle", "a blue square", "a green star"};
  FinetuneObjective own(recipe, paths);
  own.enter(recipe.stages[0], 0, 0);
  const io::Image rows = sheet(own, "own");
  EXPECT_EQ(rows.width, first.width);
  EXPECT_GT(rows.height * 10, first.height * 14);
  EXPECT_LE(rows.height * 2, first.height * 3);
}

TEST(AdapterSource, TheE4m3FeedForwardSeesTheAdapters) {
  ScratchFolder scratch;
  LoraConfig config = small_lora();
  config.targets = {"ffn.net.0.proj", "ffn.net.2"};
  Adapted adapted(config);
  const at::NoGradGuard no_grad;
  for (const auto& [name, tensor] : adapted.adapters)
    tensor.detach().normal_(0, 0.05);
  write_lora(scratch / "my.safetensors", adapted.adapters, config);
  adapted.dit->set_e4m3_feed_forward(true);
  const auto merged = tiny_dit({{scratch / "my.safetensors", 1.0}}), plain = tiny_dit({});
  merged->set_e4m3_feed_forward(true);
  plain->set_e4m3_feed_forward(true);
  const at::Tensor beside = velocity_of(*adapted.dit);
  const double moved = (beside - velocity_of(*plain)).norm().item<double>();
  EXPECT_GT(moved, 0.05 * beside.norm().item<double>());
  EXPECT_LT((beside - velocity_of(*merged)).norm().item<double>(), tolerance::kMergedLoraE4m3 * moved);
}

TEST(FinetuneObjective, TheWholeTransformerExportsAndLoads) {
  ScratchFolder scratch;
  const Recipe recipe = recipe_of(std::nullopt, 1);
  Recipe whole = recipe;
  whole.data = DataConfig{};  // any table makes it fine-tuning; the folder is refused before anything is encoded
  whole.data->folder = scratch / "none";
  whole.data->cache = scratch / "cache";
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] {
                         FinetuneObjective refused(whole, {"models/tiny", scratch / "cache", scratch / "latents"});
                       }),
                       "cannot read the folder of videos");
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] {
                         FinetuneObjective refused(recipe, {"models/tiny", scratch / "cache", scratch / "latents"});
                       }),
                       "expected a recipe of kind \"dit\" with [data] or [lora]");
  nn::TensorMap weights;
  for (const auto& [name, tensor] : nn::load_tensors("models/tiny/transformer").tensors)
    weights.emplace("transformer." + name, tensor);
  export_transformer("models/tiny", scratch.path(), weights);
  EXPECT_EQ(nn::load_tensors(scratch / "transformer").tensors.size(), weights.size());
  weights.erase("transformer.proj_out.weight");
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { export_transformer("models/tiny", scratch.path(), weights); }),
                       "proj_out.weight");
}

}  // namespace
}  // namespace fpsa::train
