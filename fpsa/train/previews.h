// Pictures of what a model in fine-tuning makes of fixed prompts.
#pragma once

#include <ATen/ATen.h>

#include <filesystem>
#include <string>
#include <vector>

#include "fpsa/models/wan/dit.h"
#include "fpsa/models/wan/layouts.h"
#include "fpsa/nn/attention_method.h"
#include "fpsa/train/dit_model.h"

namespace fpsa::train {

/// A prompt as the transformer reads it.
struct EncodedPrompt {
  std::string text;
  at::Tensor states;  // [tokens, d_model], without padding
};

/// Encodes prompts with the text encoder of a model, which is in memory only meanwhile.
std::vector<EncodedPrompt> encode_captions(const models::wan::ModelPlace& place, const std::vector<std::string>& texts);

/// Generates a clip of every prompt, guided away from `empty`, and writes evenly spaced frames of each as one PNG, a
/// row with its prompt for each clip. The same seed gives the same noise, so that sheets of one run can be compared.
/// The VAE is in memory only while it decodes.
///   Errors    fpsa::Error without prompts, for a VAE that cannot be loaded, or when the file cannot be written
void write_previews(const std::filesystem::path& file, models::wan::WanDit& dit, nn::AttentionMethod& attention,
                    const models::wan::ModelPlace& place, const std::vector<EncodedPrompt>& prompts,
                    const at::Tensor& empty, uint64_t seed, const SampleOptions& options);

}  // namespace fpsa::train
