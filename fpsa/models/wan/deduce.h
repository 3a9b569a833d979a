// Configurations where no diffusers config file exists: from the shapes of the tensors, or from the original's own.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "fpsa/models/wan/dit_config.h"
#include "fpsa/models/wan/text_encoder.h"
#include "fpsa/models/wan/vae_config.h"
#include "fpsa/nn/tensor_map.h"

namespace fpsa::models::wan {

/// All three take tensors under diffusers' names and read every size that a shape shows.
///   Errors    fpsa::Error naming the tensor that is missing or has another rank than expected, or the kind of model
///             (image-to-video, Wan2.2) that the sizes belong to

/// Head dimension: Wan's 128, which no shape shows.
DitConfig deduce_dit_config(const nn::TensorMap& tensors, const std::string& origin);
/// Statistics of the latents: Wan2.1's published ones when there are 16 channels, else none.
VaeConfig deduce_vae_config(const nn::TensorMap& tensors, const std::string& origin);
/// Largest distance and epsilon: UMT5's 128 and 1e-6.
Umt5Config deduce_text_config(const nn::TensorMap& tensors, const std::string& origin);

/// The original repository's config.json (keys dim, ffn_dim, num_heads, model_type, ...).
///   Errors    fpsa::Error: a model_type other than t2v, refused by name; an unknown key; a value of the wrong type
DitConfig dit_config_from_original(const nlohmann::json& json, const std::string& origin);

/// Throws fpsa::Error when the sizes are those of a Wan2.2 or image-conditioned transformer.
void refuse_unsupported_sizes(const DitConfig& config, const std::string& origin);

}  // namespace fpsa::models::wan
