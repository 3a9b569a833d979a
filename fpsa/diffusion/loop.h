// The sampling loop: from noise and text states to clean latents.
#pragma once

#include <ATen/ATen.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>

#include "fpsa/base/check.h"
#include "fpsa/diffusion/guidance.h"
#include "fpsa/diffusion/sigmas.h"
#include "fpsa/nn/attention_method.h"
#include "fpsa/nn/denoiser.h"

namespace fpsa::diffusion {

/// The run was cancelled through LoopOptions::cancel.
class Cancelled : public Error {
 public:
  using Error::Error;
};

struct LoopOptions {
  SchedulerConfig scheduler;
  int64_t steps = 50;
  double guidance_scale = 5.0;  // 1 or less: no guidance, one forward a step
  GuidanceRun guidance_run = GuidanceRun::kBatched;
  /// Called after every step with the number of steps done, their total and the wall seconds of this step.
  std::function<void(int64_t done, int64_t steps, double seconds)> progress;
  /// Looked at before every step; may be null.
  const std::atomic<bool>* cancel = nullptr;
};

/// Standard normal noise, the values of torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed)).
///   Shapes    shape (C, T, H, W) in latent cells; out [1, C, T, H, W] F32
at::Tensor make_noise(uint64_t seed, const std::array<int64_t, 4>& shape);

/// Runs all steps.
///   Shapes    initial [B, C, T, H, W], noise at sigma 1; text [B, Lt, Dt]; negative alike, or undefined without
///             guidance; out [B, C, T, H, W] F32, normalised latents as the model sees them
///   Numerics  latents and guidance in F32 between steps, whatever the model computes in
///   Errors    fpsa::Error naming the step at which the latents stopped being finite; Cancelled; what the model throws
at::Tensor denoise(nn::Denoiser& model, nn::AttentionMethod& attention, const at::Tensor& initial,
                   const at::Tensor& text, const at::Tensor& negative, const LoopOptions& options);

}  // namespace fpsa::diffusion
