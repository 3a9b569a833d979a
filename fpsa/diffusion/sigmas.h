// Noise levels of a run. Flow matching mixes data and noise as (1 - sigma) * data + sigma * noise; the shift moves
// the levels towards noise: sigma' = shift * sigma / (1 + (shift - 1) * sigma). Which unshifted levels a run visits
// differs between samplers, and a checkpoint's results depend on it, so each follows diffusers' scheduler of its name.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace fpsa::diffusion {

enum class SamplerKind {
  kUniPc,    // diffusers' UniPCMultistepScheduler
  kDpmpp2m,  // diffusers' DPMSolverMultistepScheduler, algorithm dpmsolver++, midpoint
  kEuler,    // diffusers' FlowMatchEulerDiscreteScheduler
};

/// "unipc", "dpm++" or "euler".
std::string_view sampler_name(SamplerKind kind);
/// The inverse; fpsa::Error names the choices.
SamplerKind sampler_from_name(std::string_view name);

/// What a scheduler_config.json decides: the sampler and its shift. Everything else has the one value that Wan uses.
struct SchedulerConfig {
  SamplerKind sampler = SamplerKind::kUniPc;
  double shift = 3.0;
  int64_t order = 2;  // of the multistep samplers: 1 or 2

  /// Reads diffusers' keys; absent ones have diffusers' defaults.
  ///   Errors    fpsa::Error: another scheduler class, or a value that asks for arithmetic that is not implemented
  ///             (each by key, with the value that is); `origin` (a path) begins the message
  static SchedulerConfig from_json(const nlohmann::json& json, const std::string& origin = "scheduler config");
  /// A scheduler_config.json that diffusers loads into the same sampler.
  nlohmann::json to_json() const;
  /// Throws fpsa::Error unless shift is positive and finite and the order is 1 or 2.
  void check() const;
};

/// The levels of one run.
struct Sigmas {
  std::vector<float> sigmas;     // steps + 1, falling, the last is 0
  std::vector<float> timesteps;  // steps: what the model is told, 1000 * sigma; whole numbers except for Euler

  int64_t steps() const { return static_cast<int64_t>(timesteps.size()); }
};

/// Levels of a run of `steps` (1 to 1000).
///   Numerics  F64, rounded to F32 at the end; equal to diffusers' values
Sigmas make_sigmas(const SchedulerConfig& config, int64_t steps);

}  // namespace fpsa::diffusion
