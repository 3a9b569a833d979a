#include "fpsa/diffusion/sigmas.h"

#include <cmath>

#include "fpsa/base/check.h"
#include "fpsa/diffusion/unipc_levels.h"

namespace fpsa::diffusion {
namespace {

// The multistep schedulers tell the model whole timesteps.
float whole(double timestep) {
  return static_cast<float>(std::trunc(timestep));
}

void append_unipc(Sigmas& out, double shift, int64_t steps) {
  for (const double sigma : unipc_levels(shift, steps)) {
    out.sigmas.push_back(static_cast<float>(sigma));
    out.timesteps.push_back(whole(sigma * kTrainSteps));
  }
}

// As UniPC's but mirrored: the unshifted levels run from 0.999 to above 0.
void append_dpmpp(Sigmas& out, double shift, int64_t steps) {
  for (int64_t i = 0; i < steps; ++i) {
    const double sigma = shifted(1.0 - spaced(1.0, 1.0 / kTrainSteps, steps + 1, steps - i), shift);
    out.sigmas.push_back(static_cast<float>(sigma));
    out.timesteps.push_back(whole(sigma * kTrainSteps));
  }
}

// diffusers shifts twice here: once for the training levels, whose extremes (in F32) bound the run, and once after
// spacing them evenly.
void append_euler(Sigmas& out, double shift, int64_t steps) {
  const float narrow_shift = static_cast<float>(shift);
  const double first = shifted(1.0F, narrow_shift);
  const double last =
      narrow_shift * (1.0F / kTrainSteps) / (1.0F + static_cast<float>(shift - 1.0) * (1.0F / kTrainSteps));
  for (int64_t i = 0; i < steps; ++i) {
    const double sigma = shifted(spaced(first * kTrainSteps, last * kTrainSteps, steps, i) / kTrainSteps, shift);
    out.sigmas.push_back(static_cast<float>(sigma));
    out.timesteps.push_back(out.sigmas.back() * kTrainSteps);
  }
}

}  // namespace

Sigmas make_sigmas(const SchedulerConfig& config, int64_t steps) {
  config.check();
  check_steps(steps);
  Sigmas out;
  switch (config.sampler) {
    case SamplerKind::kUniPc:
      append_unipc(out, config.shift, steps);
      break;
    case SamplerKind::kDpmpp2m:
      append_dpmpp(out, config.shift, steps);
      break;
    case SamplerKind::kEuler:
      append_euler(out, config.shift, steps);
      break;
  }
  out.sigmas.push_back(0.0F);
  return out;
}

void SchedulerConfig::check() const {
  check_shift(shift);
  FPSA_CHECK(order == 1 || order == 2, "solver order must be 1 or 2, received ", order);
}

}  // namespace fpsa::diffusion
