// The embedded model's transformer and text encoder with their training-only heads, and sampling from them.
#pragma once

#include <ATen/ATen.h>

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "fpsa/models/wan/dit.h"
#include "fpsa/models/wan/text_encoder.h"
#include "fpsa/models/wan/tokenizer.h"
#include "fpsa/nn/attention_method.h"
#include "fpsa/nn/tensor_map.h"
#include "fpsa/train/text_conditioner.h"

namespace fpsa::train {

/// 4 heads x 64, 6 layers, feed-forward 640, text width 128, 8 latent channels: 5.8M parameters.
models::wan::DitConfig tiny_dit_config();
/// Width 128, 2 layers, 4 heads x 32, feed-forward 256.
models::wan::Umt5Config tiny_umt5_config(int64_t vocab_size);

/// What is trained together. Parameter names: "transformer.*", "text_encoder.*", and "helper.*" for the heads that
/// an export drops.
struct DitModel {
  /// Without helpers the two training-only heads stay empty, as an exported model needs it.
  DitModel(nn::ParameterSource& source, int64_t vocab_size, bool with_helpers = true);

  models::wan::WanDit dit;
  models::wan::Umt5Encoder text;
  nn::Linear slots;     // pooled text states -> attribute logits
  nn::Linear coverage;  // states after the middle layer -> object coverage of the token, a logit
};

/// How previews and evaluations sample.
struct SampleOptions {
  std::array<int64_t, 3> latent_size = {9, 32, 32};  // T, H, W
  models::wan::RopeStretch stretch;
  int64_t steps = 12;
  double shift = 5.0;
  double guidance = 3.0;
};

/// Normalised latents: Euler over the shifted flow schedule with classifier-free guidance.
///   Shapes    text: of the prompts, then of as many empty ones; out [prompts, channels, T, H, W] F32
at::Tensor sample_latents(models::wan::WanDit& dit, nn::AttentionMethod& attention, const TextCondition& text,
                          uint64_t seed, const SampleOptions& options);

/// The same of prompts, by the model's own text encoder.
///   Shapes    out [prompts, 8, T, H, W] F32
at::Tensor sample_latents(DitModel& model, const models::wan::Tokenizer& tokenizer, nn::AttentionMethod& attention,
                          const std::vector<std::string>& prompts, uint64_t seed, const SampleOptions& options);

}  // namespace fpsa::train
