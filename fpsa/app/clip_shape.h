// The shape of a clip in pixels, in latents and in attention tokens, and the rule of which shapes are legal.
#pragma once

#include <cstdint>
#include <vector>

#include "fpsa/models/wan/dit_config.h"
#include "fpsa/models/wan/vae_config.h"
#include "fpsa/pattern/grid.h"

namespace fpsa::app {

struct ClipShape {
  int64_t frames = 0, height = 0, width = 0;
  std::vector<int64_t> latents;  // [1, C, T, H, W]
  pattern::Grid grid;            // attention tokens
};

/// Checks a requested shape against the model and derives the rest.
///   Requires  frames = k * temporal factor + 1; height and width multiples of (spatial factor * patch)
///   Errors    UsageError that names the nearest legal values
ClipShape clip_shape(int64_t frames, int64_t height, int64_t width, const models::wan::DitConfig& dit,
                     const models::wan::VaeConfig& vae);

}  // namespace fpsa::app
