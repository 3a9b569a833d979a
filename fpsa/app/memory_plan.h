// How much memory a run will need, said before it starts.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "fpsa/app/clip_shape.h"
#include "fpsa/models/wan/describe.h"
#include "fpsa/models/wan/dit_config.h"
#include "fpsa/models/wan/text_encoder.h"
#include "fpsa/models/wan/vae_config.h"

namespace fpsa::app {

/// What the estimate depends on.
struct MemoryRequest {
  models::wan::DitConfig dit;
  models::wan::VaeConfig vae;
  models::wan::Umt5Config text;
  ClipShape shape;
  models::wan::WeightCount dit_weights, vae_weights;
  models::wan::WeightCount text_weights;  // none with --prompt-embeds
  int64_t prompts = 1;
  int64_t element_bytes = 4;  // of the transformer's and the text encoder's weights and activations
  int64_t vae_element_bytes = 4;
  int64_t batch = 2;  // samples per forward: 2 with batched guidance
  bool tiled_vae = false;
  bool decodes = true;         // a run that only denoises has no VAE stage
  int64_t measured_bytes = 0;  // beside every forward, per token and channel: what compares attention outputs
};

/// Peak bytes of each stage: everything that lives while it runs, weights in the dtype that they compute in. Pages of
/// a file that was converted are not counted: they are read once, and the system takes them back when it needs memory.
struct MemoryPlan {
  int64_t text_bytes = 0;  // 0 without a text encoder
  int64_t denoise_bytes = 0, decode_bytes = 0;
  int64_t peak_bytes() const;
  const char* peak_stage() const;
};

MemoryPlan plan_memory(const MemoryRequest& request);

/// Throws fpsa::Error when the plan exceeds what is available, naming the flags that would help most.
void check_memory(const MemoryPlan& plan, const MemoryRequest& request, int64_t available_bytes);

}  // namespace fpsa::app
