// The seam between a diffusion model and the sampling or training loop.
#pragma once

#include <ATen/ATen.h>

#include "fpsa/nn/attention_method.h"

namespace fpsa::nn {

/// One prediction of the model.
struct DenoiserInput {
  at::Tensor latents;   // [B, C, T, H, W]
  at::Tensor timestep;  // [B], F32, in [0, 1000] (1000 * sigma)
  at::Tensor text;      // [B, Lt, Dt], zeros after the prompt
  int64_t step = 0;     // denoising step and their number, for the attention schedule
  int64_t num_steps = 1;
};

/// Predicts the flow velocity v = noise - data.
class Denoiser {
 public:
  virtual ~Denoiser() = default;
  /// Returns [B, C, T, H, W] in F32 or the compute dtype of the model.
  virtual at::Tensor predict(const DenoiserInput& input, AttentionMethod& attention) = 0;
};

}  // namespace fpsa::nn
