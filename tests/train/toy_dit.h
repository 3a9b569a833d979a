// Training runs of the transformer at toy sizes, for the tests of this folder.
#pragma once

#include <filesystem>

#include "fpsa/train/export.h"
#include "fpsa/train/recipe.h"
#include "fpsa/train/vae_objective.h"

namespace fpsa::train {

/// 5x32x32: 2x2x2 tokens.
inline Recipe dit_recipe(int64_t steps) {
  Recipe recipe;
  recipe.kind = Kind::kDit;
  recipe.preview_minutes = 0;
  recipe.preview_prompts = 0;
  recipe.warmup_steps = 1;
  Stage stage;
  stage.frames = 5, stage.height = 32, stage.width = 32;
  stage.batch = 3;
  stage.steps = steps;
  stage.learning_rate = {1e-3, 1e-3};
  stage.stretch = {4, 8, 8};
  stage.pool_start = 16, stage.pool_clips = 32, stage.refresh_every = 2;
  recipe.stages = {stage};
  return recipe;
}

/// Writes a model folder with an untrained autoencoder and the embedded model's tokenizer.
inline void write_vae(const std::filesystem::path& folder) {
  VaeObjective objective(3);
  auto config = tiny_vae_config();
  config.latents_mean.assign(8, 0.1);
  config.latents_std.assign(8, 1.5);
  export_vae(folder, config, objective.parameters());
  std::filesystem::copy("models/tiny/tokenizer", folder / "tokenizer", std::filesystem::copy_options::recursive);
}

}  // namespace fpsa::train
