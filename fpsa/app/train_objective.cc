#include "fpsa/app/train_objective.h"

#include <malloc.h>

#include "fpsa/app/train_finetune.h"
#include "fpsa/train/dit_objective.h"
#include "fpsa/train/export.h"
#include "fpsa/train/loop.h"
#include "fpsa/train/vae_objective.h"

namespace fpsa::app {

std::unique_ptr<train::Objective> make_objective(const train::Recipe& recipe, const TrainPaths& paths) {
  if (recipe.kind == train::Kind::kVae)
    return std::make_unique<train::VaeObjective>(recipe.seed, recipe.decoder_only);
  const auto latents = paths.latents.empty() ? paths.out / "latents" : paths.latents;
  if (recipe.finetunes()) return make_finetune(recipe, paths.model, paths.out, latents);
  return std::make_unique<train::DitObjective>(
      recipe, train::DitData{paths.model / "vae", paths.model / "tokenizer", latents, encoding_lines()});
}

nn::TensorMap weights_to_start_from(const std::filesystem::path& weights, train::Kind kind) {
  if (weights.empty()) return {};
  return std::filesystem::is_directory(weights) ? train::folder_weights(weights, kind)
                                                : train::checkpoint_weights(weights);
}

void keep_freed_memory() {
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, -1);
}

}  // namespace fpsa::app
