// Writing the trained model as a diffusers-layout folder.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "fpsa/models/wan/vae.h"
#include "fpsa/nn/tensor_map.h"
#include "fpsa/schedule/schedule.h"
#include "fpsa/train/recipe.h"

namespace fpsa::train {

/// Writes folder/vae: config.json with the latent statistics and the weights in F32.
void export_vae(const std::filesystem::path& folder, const models::wan::VaeConfig& config,
                const nn::TensorMap& weights);

/// Writes transformer/, text_encoder/ (BF16), scheduler/, model_index.json and fpsa.json (the model's own generation
/// settings) into a folder that already holds vae/ and tokenizer/. Weights are named as in DitModel; "helper.*" is
/// dropped. The transformer carries the schedule that it was trained with, and the scheduler has its shift; without
/// one the shift is 5.
///   Errors    fpsa::Error for a missing part or an unwritable folder
void export_pipeline(const std::filesystem::path& folder, const nn::TensorMap& weights, int64_t vocab_size,
                     const std::optional<schedule::Schedule>& schedule = std::nullopt);

/// The TOML schedule in the metadata of a training checkpoint or of a transformer's file or folder; empty when there is
/// none.
///   Errors    as nn::load_tensors
std::string carried_schedule(const std::filesystem::path& weights);

/// Writes folder/transformer of a fine-tuned model: `base`'s configuration, the weights "transformer.*" in BF16, and
/// the schedule that it was trained with.
///   Errors    fpsa::Error when the weights do not fit the base's transformer
void export_transformer(const std::filesystem::path& base, const std::filesystem::path& folder,
                        const nn::TensorMap& weights, const std::optional<schedule::Schedule>& schedule = std::nullopt);

/// The weights of a model folder under the names that training gives them: the inverse of the two functions above. A
/// DiT's "helper.*" heads are not in a folder.
///   Errors    fpsa::Error for a missing part or a damaged file
nn::TensorMap folder_weights(const std::filesystem::path& folder, Kind kind);

}  // namespace fpsa::train
