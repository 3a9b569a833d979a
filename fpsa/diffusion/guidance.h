// Classifier-free guidance: the velocity is pushed away from that of the negative prompt.
#pragma once

#include "fpsa/nn/denoiser.h"

namespace fpsa::diffusion {

/// How the two predictions of guidance are run.
enum class GuidanceRun {
  kBatched,     // one forward of 2B samples: weights are read once, activations take twice the memory
  kSequential,  // two forwards of B
};

/// negative + scale * (positive - negative); with scale at most 1 the positive prediction alone, from one forward.
///   Shapes    input as for Denoiser::predict, its text being the prompt's; negative alike, or undefined at scale <= 1;
///             out [B, C, T, H, W] F32
at::Tensor guided_velocity(nn::Denoiser& model, nn::AttentionMethod& attention, const nn::DenoiserInput& input,
                           const at::Tensor& negative, double scale, GuidanceRun run);

}  // namespace fpsa::diffusion
