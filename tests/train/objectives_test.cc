// The real objectives at toy sizes: losses fall, runs resume exactly, exports load, and the compact text condition
// equals the 512 rows that inference uses.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "fpsa/accel/methods.h"
#include "fpsa/io/json.h"
#include "fpsa/nn/checkpoint.h"
#include "fpsa/train/clip_batch.h"
#include "fpsa/train/dit_objective.h"
#include "fpsa/train/export.h"
#include "fpsa/train/loop.h"
#include "fpsa/train/text_conditioner.h"
#include "fpsa/train/vae_objective.h"
#include "tests/train/scratch_folder.h"
#include "tests/train/toy_dit.h"

namespace fpsa::train {
namespace {

const std::filesystem::path kTokenizer = "models/tiny/tokenizer";

Recipe vae_recipe(int64_t steps) {
  Recipe recipe;
  recipe.kind = Kind::kVae;
  recipe.preview_minutes = 0;
  recipe.warmup_steps = 1;
  Stage stage;
  stage.steps = steps;
  stage.learning_rate = {1e-3, 1e-3};
  stage.crops = {{{5, 32, 32}, {5, 64, 64}}, {{9, 16, 16}, {17, 64, 64}, 2}};
  recipe.stages = {stage};
  return recipe;
}

// The evaluation of the autoencoder costs seconds, so its parts are driven by hand.
double vae_loss(VaeObjective& objective, Optimizer& optimizer, int64_t step) {
  const Loss loss = objective.loss(step, step);
  loss.total.backward();
  optimizer.step(1e-3);
  return loss.total.item<double>();
}

TEST(VaeObjective, LossFallsFromTheIdentityLikeStart) {
  VaeObjective objective(1);
  const Recipe recipe = vae_recipe(1);
  objective.enter(recipe.stages[0], 0, 0);
  Optimizer optimizer(objective.parameters(), [&](const auto& n, const auto& w) { return objective.is_matrix(n, w); },
                      {});
  double first = 0, last = 0;
  for (int64_t step = 0; step < 24; ++step) {
    const double loss = vae_loss(objective, optimizer, step);
    if (step < 6) first += loss;
    if (step >= 18) last += loss;
  }
  EXPECT_LT(last, first);
}

TEST(VaeObjective, TheSameStepGivesTheSameLoss) {
  VaeObjective a(1), b(1);
  const Recipe recipe = vae_recipe(1);
  a.enter(recipe.stages[0], 0, 0);
  b.enter(recipe.stages[0], 0, 0);
  EXPECT_EQ(a.loss(5, 5).total.item<float>(), b.loss(5, 5).total.item<float>());
  EXPECT_NE(a.loss(5, 5).total.item<float>(), b.loss(6, 6).total.item<float>());
}

TEST(VaeObjective, DecoderOnlyLeavesTheEncoderAlone) {
  VaeObjective objective(1, /*decoder_only=*/true);
  const Recipe recipe = vae_recipe(1);
  objective.enter(recipe.stages[0], 0, 0);
  Optimizer optimizer(objective.parameters(), [&](const auto& n, const auto& w) { return objective.is_matrix(n, w); },
                      {});
  nn::TensorMap before;
  for (const auto& [name, w] : objective.parameters())
    before.emplace(name, w.detach().clone());
  vae_loss(objective, optimizer, 0);
  for (const auto& [name, w] : objective.parameters()) {
    const bool frozen = name.starts_with("encoder.") || name.starts_with("quant_conv.");
    if (frozen) {
      EXPECT_TRUE(at::equal(w.detach(), before.at(name))) << name;
    }
  }
  EXPECT_FALSE(
      at::equal(objective.parameters().at("decoder.conv_in.weight").detach(), before.at("decoder.conv_in.weight")));
}

TEST(DitObjective, SixStepsEqualThreePlusResumePlusThree) {
  const ScratchFolder model, whole, split;
  write_vae(model.path);
  const Recipe recipe = dit_recipe(6);
  const auto run = [&](const ScratchFolder& folder, bool resume, int64_t stop_after) {
    DitObjective objective(recipe, {model.path / "vae", model.path / "tokenizer", folder.path / "latents"});
    run_loop(objective, recipe, {.out = folder.path, .resume = resume, .stop_after = stop_after});
  };
  run(whole, false, 0);
  run(split, false, 3);
  run(split, true, 0);
  const auto a = nn::load_tensors(whole.path / "checkpoint.safetensors").tensors;
  const auto b = nn::load_tensors(split.path / "checkpoint.safetensors").tensors;
  ASSERT_EQ(a.size(), b.size());
  for (const auto& [name, tensor] : a)
    EXPECT_TRUE(at::equal(tensor, b.at(name))) << name;
}

TEST(DitObjective, LossFalls) {
  const ScratchFolder model;
  write_vae(model.path);
  const Recipe recipe = dit_recipe(1);
  DitObjective objective(recipe, {model.path / "vae", model.path / "tokenizer", model.path / "latents"});
  objective.enter(recipe.stages[0], 0, 0);
  Optimizer optimizer(objective.parameters(), [&](const auto& n, const auto& w) { return objective.is_matrix(n, w); },
                      {});
  double first = 0, last = 0;
  for (int64_t step = 0; step < 40; ++step) {
    const Loss loss = objective.loss(step, 0);
    loss.total.backward();
    optimizer.step(1e-3);
    if (step < 10) first += loss.figures.at("flow");
    if (step >= 30) last += loss.figures.at("flow");
  }
  EXPECT_LT(last, 0.9 * first);
}

TEST(DitObjective, MuonMovesProjectionsAndNothingElse) {
  const ScratchFolder model;
  write_vae(model.path);
  DitObjective objective(dit_recipe(1), {model.path / "vae", model.path / "tokenizer", model.path / "latents"});
  const auto moved = [&](const char* name) { return objective.is_matrix(name, objective.parameters().at(name)); };
  EXPECT_TRUE(moved("transformer.blocks.0.attn1.to_q.weight"));
  EXPECT_TRUE(moved("transformer.blocks.5.ffn.net.2.weight"));
  EXPECT_TRUE(moved("text_encoder.encoder.block.0.layer.0.SelfAttention.q.weight"));
  EXPECT_FALSE(moved("text_encoder.shared.weight"));
  EXPECT_FALSE(moved("transformer.proj_out.weight"));
  EXPECT_FALSE(moved("transformer.blocks.0.attn1.to_q.bias"));
  EXPECT_FALSE(moved("helper.slots.weight"));
}

// Random weights everywhere, the head included, so that the text reaches the output.
DitModel random_model(nn::RandomInit& init, const models::wan::Tokenizer& tokenizer) {
  DitModel model(init, tokenizer.vocab_size());
  at::NoGradGuard no_grad;
  auto generator = at::detail::createCPUGenerator(4);
  for (auto& [name, w] : init.tensors)
    w.detach().add_(at::randn(w.sizes(), generator, at::kFloat), 0.1);
  return model;
}

TEST(TextCondition, MultiplicityEqualsFiveHundredAndTwelveRows) {
  at::NoGradGuard no_grad;
  const auto tokenizer = models::wan::Tokenizer::load(kTokenizer);
  nn::RandomInit init(2);
  DitModel model = random_model(init, tokenizer);
  const auto attention = accel::make_dense();
  const TextCondition text =
      encode_prompts(model.text, tokenizer, {"a red circle moves left on a gray background", ""});
  EXPECT_TRUE(at::allclose(text.multiplicity.sum(1), at::full({2}, 512.0f)));

  auto generator = at::detail::createCPUGenerator(8);
  nn::DenoiserInput input;
  input.latents = at::randn({2, 8, 2, 4, 4}, generator, at::kFloat);
  input.timestep = at::tensor({700.0f, 200.0f});
  input.text = text.states;
  models::wan::DitOptions options;
  options.text_multiplicity = text.multiplicity;
  const at::Tensor compact = model.dit.forward(input, *attention, options).velocity;
  input.text = at::constant_pad_nd(text.states, {0, 0, 0, 512 - text.states.size(1)});
  const at::Tensor full = model.dit.predict(input, *attention);
  const double range = (full.max() - full.min()).item<double>();
  EXPECT_GT(range, 0.1);
  EXPECT_LT((compact - full).abs().max().item<double>(), 1e-4 * range);
}

TEST(TextCondition, SlotLossIgnoresDroppedPrompts) {
  const std::vector<ClipSpec> specs(2);
  at::Tensor logits = at::zeros({2, kSlotLogits});
  const double even = slot_loss(logits, specs, {true, true}).item<double>();
  EXPECT_NEAR(even, (std::log(5.0) + std::log(6.0) + std::log(4.0) + std::log(7.0)) / 4, 1e-5);
  logits[1].fill_(std::numeric_limits<float>::infinity());
  EXPECT_NEAR(slot_loss(logits, specs, {true, false}).item<double>(), even, 1e-5);
  EXPECT_EQ(slot_loss(at::zeros({2, kSlotLogits}), specs, {false, false}).item<double>(), 0.0);
}

TEST(LatentPool, GrowsReplacesTheOldestAndReadsBack) {
  const ScratchFolder folder;
  int encoded = 0;
  const auto encode = [&](const at::Tensor& video) {
    ++encoded;
    return at::full({1, 8, 2, 4, 4}, video.mean().item<double>(), at::kFloat);
  };
  const auto make = [&](const std::string& id) { return LatentPool(5, 32, 32, 9, 32, folder.path, id, encode); };
  LatentPool pool = make("a");
  pool.grow_to(1);
  EXPECT_EQ(pool.size(), 16);
  pool.grow_to(3);
  EXPECT_EQ(pool.size(), 32);
  EXPECT_EQ(encoded, 48);
  LatentPool resumed = make("a");
  resumed.grow_to(3);
  EXPECT_EQ(encoded, 48);  // from the files
  ASSERT_EQ(resumed.size(), 32);
  for (int64_t i = 0; i < 32; ++i) {
    EXPECT_EQ(pool[i].spec.seed, resumed[i].spec.seed);
    EXPECT_TRUE(at::equal(pool[i].latents, resumed[i].latents));
    EXPECT_FALSE(held_out(pool[i].spec));
  }
  make("b").grow_to(1);
  EXPECT_EQ(encoded, 64);  // another autoencoder

  // What progress throws in the second chunk leaves the first complete.
  struct Stop {};
  std::vector<std::pair<int64_t, int64_t>> seen;
  const auto stop_at_20 = [&](int64_t done, int64_t total, const std::string&) {
    seen.emplace_back(done, total);
    if (done == 20) throw Stop();
  };
  EXPECT_THROW(make("c").grow_to(2, stop_at_20), Stop);
  EXPECT_EQ(seen.size(), 21u);
  EXPECT_EQ(seen.back(), std::pair(int64_t{20}, int64_t{32}));
  EXPECT_EQ(encoded, 84);
  make("c").grow_to(1);
  EXPECT_EQ(encoded, 84);
}

TEST(ClipBatch, TokenCoverageIsTheMeanOverItsPixels) {
  Clip clip;
  clip.frames = 5, clip.height = 32, clip.width = 32;
  clip.coverage.assign(5 * 32 * 32, 0);
  for (int64_t y = 0; y < 8; ++y)  // half of the first token's rows, in frame 2 only
    for (int64_t x = 0; x < 16; ++x)
      clip.coverage[static_cast<size_t>((2 * 32 + y) * 32 + x)] = 255;
  const at::Tensor cover = token_coverage(clip, {2, 2, 2});
  EXPECT_NEAR(cover[0].item<double>(), 0.0, 1e-6);
  EXPECT_NEAR(cover[4].item<double>(), 0.5 / 4, 1e-6);
  EXPECT_NEAR(cover.sum().item<double>(), 0.5 / 4, 1e-6);
}

TEST(ClipBatch, CropsHaveTheirSizeAndAreReproducible) {
  const Stage::Crop crop{{9, 48, 32}, {17, 64, 64}, 3};
  const at::Tensor a = crop_batch(crop, 5), b = crop_batch(crop, 5), c = crop_batch(crop, 6);
  EXPECT_EQ(a.sizes(), (at::IntArrayRef{3, 3, 9, 48, 32}));
  EXPECT_TRUE(at::equal(a, b));
  EXPECT_FALSE(at::equal(a, c));
  EXPECT_LE(a.abs().max().item<double>(), 1.0);
}

TEST(ClipBatch, PixelsSurviveTheRoundTrip) {
  const Clip clip = render(random_spec(3, false), 5, 32, 32);
  const at::Tensor pixels = pixels_of(video_of(clip));
  EXPECT_EQ(0, std::memcmp(pixels.const_data_ptr<uint8_t>(), clip.rgb.data(), clip.rgb.size()));
}

TEST(Export, WritesAFolderThatLoadsAgain) {
  const ScratchFolder folder;
  write_vae(folder.path);
  const auto tokenizer = models::wan::Tokenizer::load(folder.path / "tokenizer");
  nn::RandomInit init(2);
  const DitModel model(init, tokenizer.vocab_size());
  export_pipeline(folder.path, init.tensors, tokenizer.vocab_size());
  const auto transformer = nn::load_tensors(folder.path / "transformer").tensors;
  nn::CheckpointSource source(transformer, at::kBFloat16, "transformer");
  const models::wan::WanDit dit(
      models::wan::DitConfig::from_json(io::read_json(folder.path / "transformer" / "config.json")), nn::Scope(source));
  EXPECT_NO_THROW(source.finish());
  EXPECT_EQ(io::read_json(folder.path / "model_index.json")["_class_name"], "WanPipeline");
  EXPECT_EQ(VaeCodec::load(folder.path / "vae").config().latents_std.size(), 8u);
  uint64_t bytes = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder.path))
    if (entry.is_regular_file()) bytes += entry.file_size();
  EXPECT_LT(bytes, 24u << 20);
}

}  // namespace
}  // namespace fpsa::train
