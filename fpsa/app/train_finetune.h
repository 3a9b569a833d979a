// Fine-tuning on a user's videos, as the train command runs it: what is prepared, started and exported.
#pragma once

#include <CLI/App.hpp>
#include <filesystem>
#include <memory>

#include "fpsa/train/encoding_progress.h"
#include "fpsa/train/objective.h"
#include "fpsa/train/recipe.h"

namespace fpsa::app {

/// Progress on stdout while clips are encoded; throws Interrupted after a signal.
train::EncodingProgress encoding_lines();

/// The objective of a recipe with [data] or [lora]. Prepares the cache first, with progress on stdout; what was found
/// is printed and appended to OUT/metrics.jsonl.
std::unique_ptr<train::Objective> make_finetune(const train::Recipe& recipe, const std::filesystem::path& model,
                                                const std::filesystem::path& out, const std::filesystem::path& latents);

/// Was the checkpoint written by a fine-tuning run?
bool is_finetune_checkpoint(const std::filesystem::path& checkpoint);

/// Where the result of a fine-tuning run goes.
struct FinetuneExport {
  std::filesystem::path checkpoint;
  std::filesystem::path base;   // whole model: the folder that was fine-tuned
  std::filesystem::path model;  // whole model: the folder to write, which must not exist
  std::filesystem::path lora;   // adapters: the file to write
};

/// Writes the averaged adapters as a LoRA file, or a copy of the base folder with the averaged transformer.
///   Errors    UsageError when what is asked for is not what the checkpoint holds
void export_finetune(const FinetuneExport& request);

/// Adds `fpsa train prepare`.
void add_prepare_command(CLI::App& train);

}  // namespace fpsa::app
