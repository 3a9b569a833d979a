// Clips as tensors: whole clips, crops around the object, and the target of the coverage head.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>

#include "fpsa/pattern/grid.h"
#include "fpsa/train/clips.h"
#include "fpsa/train/recipe.h"

namespace fpsa::train {

/// A clip as the VAE reads it.
///   Shapes    out [3, frames, height, width], F32 in [-1, 1]
at::Tensor video_of(const Clip& clip);

/// The inverse for decoded video: rounds and clamps.
///   Shapes    video [3, frames, height, width] in [-1, 1]; out [frames, height, width, 3] uint8, contiguous
at::Tensor pixels_of(const at::Tensor& video);

/// Random training clips, cut to the crop's size. The window lies over the object at a random frame, seven times in
/// eight; else anywhere.
///   Shapes    out [crop.batch, 3, crop.size...], F32
at::Tensor crop_batch(const Stage::Crop& crop, uint64_t seed);

/// Mean coverage of the pixels that each token sees: 16x16 pixels and 4 frames (the first frame alone).
///   Shapes    out [grid.volume()] F32 in [0, 1]
at::Tensor token_coverage(const Clip& clip, pattern::Grid grid);

}  // namespace fpsa::train
