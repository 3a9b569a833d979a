// Initialisation under which an untrained VAE already passes colours through.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <map>
#include <string>

#include "fpsa/models/wan/vae_config.h"

namespace fpsa::models::wan {

/// Rewrites randomly initialised tensors (nn::RandomInit) so that encode then decode is nearly a low-pass filter:
/// with default initialisation training stays at about 10 dB for minutes, from here it starts above that.
///   Requires  `tensors` holds the VAE's tensors under their own names (no prefix), F32
///   Edges     other names are left alone; widths too small to carry the colours get only the damped residuals
///   Errors    throws fpsa::Error when a tensor of `config` is missing
void identity_like_init(std::map<std::string, at::Tensor>& tensors, const VaeConfig& config, uint64_t seed);

}  // namespace fpsa::models::wan
