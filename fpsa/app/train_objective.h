// What `fpsa train` and `fpsa bench train` start from: an objective and its weights, and how the process is set up.
#pragma once

#include <filesystem>
#include <memory>

#include "fpsa/train/objective.h"
#include "fpsa/train/recipe.h"

namespace fpsa::app {

/// Where an objective finds and keeps things.
struct TrainPaths {
  std::filesystem::path model;    // whose vae/ and tokenizer/ the dit stage uses, or that is fine-tuned
  std::filesystem::path out;      // folder of the run
  std::filesystem::path latents;  // encoded clips; empty: out/latents
};

/// The objective of the recipe's kind, its parameters at their random start.
std::unique_ptr<train::Objective> make_objective(const train::Recipe& recipe, const TrainPaths& paths);

/// Averaged weights of a checkpoint, or those of a model folder; none for an empty path.
nn::TensorMap weights_to_start_from(const std::filesystem::path& weights, train::Kind kind);

/// Training allocates and frees tensors of tens of MB thousands of times a minute. glibc would return each to the
/// system and fault its pages in again; keeping them is worth a third of the step time.
void keep_freed_memory();

}  // namespace fpsa::app
