// A complete Wan model with random weights at small sizes, and the names that the original repository gives to its
// tensors, written down independently of the engine's tables.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "fpsa/models/wan/dit_config.h"
#include "fpsa/models/wan/text_encoder.h"
#include "fpsa/models/wan/vae_config.h"
#include "fpsa/nn/tensor_map.h"

namespace fpsa::testing {

struct SmallModel {
  models::wan::DitConfig dit;
  models::wan::VaeConfig vae;
  models::wan::Umt5Config text;
  nn::TensorMap dit_tensors, vae_tensors, text_tensors;  // BF16, BF16, BF16; by diffusers' names
};

/// Heads of 128, as Wan's; 4 latent channels; the vocabulary of models/tiny/tokenizer.
SmallModel small_model();

/// Names of all tensors in the original repository's modules.
std::vector<std::string> original_dit_names(int64_t layers);
std::vector<std::string> original_text_names(int64_t layers);
std::vector<std::string> original_vae_names(const models::wan::VaeConfig& config);

/// The same tensors under the original names, with `prefix` in front.
nn::TensorMap original_dit(const SmallModel& model, const std::string& prefix = "");
nn::TensorMap original_text(const SmallModel& model);
nn::TensorMap original_vae(const SmallModel& model);

/// Writes a diffusers folder; the tokenizer is a copy of models/tiny/tokenizer.
void write_diffusers_folder(const SmallModel& model, const std::filesystem::path& folder);

/// Writes text as a file, creating folders.
void write_text(const std::filesystem::path& path, const std::string& text);

}  // namespace fpsa::testing
