// How much memory a run will need, said before it starts.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "fpsa/app/clip_shape.h"
#include "fpsa/models/wan/dit_config.h"
#include "fpsa/models/wan/text_encoder.h"
#include "fpsa/models/wan/vae_config.h"

namespace fpsa::app {

/// What the estimate depends on.
struct MemoryRequest {
  models::wan::DitConfig dit;
  models::wan::VaeConfig vae;
  ClipShape shape;
  int64_t text_weight_bytes = 0;  // 0 with --prompt-embeds
  int64_t dit_weight_bytes = 0;   // in the compute dtype
  int64_t vae_weight_bytes = 0;
  int64_t element_bytes = 4;  // of the transformer's activations
  int64_t vae_element_bytes = 4;
  int64_t batch = 2;  // samples per forward: 2 with batched guidance
  bool tiled_vae = false;
};

/// Peak bytes of each stage, everything resident counted.
struct MemoryPlan {
  int64_t text_bytes = 0, denoise_bytes = 0, decode_bytes = 0;
  int64_t peak_bytes() const;
  const char* peak_stage() const;
};

MemoryPlan plan_memory(const MemoryRequest& request);

/// Throws fpsa::Error when the plan exceeds what is available, naming the flags that would help most.
void check_memory(const MemoryPlan& plan, const MemoryRequest& request, int64_t available_bytes);

}  // namespace fpsa::app
