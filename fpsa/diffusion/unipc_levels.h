// The noise levels that UniPC visits, apart from the sampler: training's phases are cut by them (train/phases.h).
#pragma once

#include <cstdint>
#include <vector>

namespace fpsa::diffusion {

// Timesteps count in the steps of training: the model is told 1000 * sigma.
inline constexpr int64_t kTrainSteps = 1000;

/// Sigmas of a run of `steps` (1 to 1000), falling, without the 0 at its end.
///   Numerics  diffusers' UniPCMultistepScheduler in F64
///   Errors    fpsa::Error: another number of steps, a shift that is not positive and finite
std::vector<double> unipc_levels(double shift, int64_t steps);

/// The parts of it that other samplers share.
///
/// Throws unless the shift is positive and finite.
void check_shift(double shift);
/// Throws unless the number of steps is from 1 to 1000.
void check_steps(int64_t steps);
/// Point i of n from `first` to `last`, both included.
double spaced(double first, double last, int64_t n, int64_t i);
/// sigma bent towards noise.
template <class T>
T shifted(T sigma, T shift) {
  return shift * sigma / (T(1) + (shift - T(1)) * sigma);
}

}  // namespace fpsa::diffusion
