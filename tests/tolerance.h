// Every numeric tolerance of the test suite, one reason each. Python tests read this file too: each line has
// the form `inline constexpr double kName = value;  // reason`. A tolerance is derived, never loosened to pass.
#pragma once

namespace fpsa::tolerance {

inline constexpr double kModelF32 = 1e-4;       // models against diffusers/transformers, F32: max error / output range
inline constexpr double kSamplerTrajectory = 1e-5;  // sampler trajectories against diffusers, F32: relative to range
inline constexpr double kPipelineLatents = 1e-3;    // whole pipeline's latents, F32: relative to range

inline constexpr double kComposedF32 = 1e-5;  // composed attention against F64: 80 eps, sums of up to 1100 terms, relative to range

}  // namespace fpsa::tolerance
