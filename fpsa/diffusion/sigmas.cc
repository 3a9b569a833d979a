#include "fpsa/diffusion/sigmas.h"

#include <cmath>

#include "fpsa/base/check.h"

namespace fpsa::diffusion {
namespace {

constexpr int64_t kTrainSteps = 1000;
// At sigma 1 the log signal-to-noise ratio is -infinity; UniPC starts just below.
constexpr double kBelowOne = 1e-6;

// Point i of n from `first` to `last`, both included.
double spaced(double first, double last, int64_t n, int64_t i) {
  if (n == 1) return first;
  return i == n - 1 ? last : first + static_cast<double>(i) * ((last - first) / static_cast<double>(n - 1));
}

template <class T>
T shifted(T sigma, T shift) {
  return shift * sigma / (T(1) + (shift - T(1)) * sigma);
}

// The multistep schedulers tell the model whole timesteps.
float whole(double timestep) {
  return static_cast<float>(std::trunc(timestep));
}

void append_unipc(Sigmas& out, double shift, int64_t steps) {
  for (int64_t i = 0; i < steps; ++i) {
    double sigma = shifted(spaced(1.0, 1.0 / kTrainSteps, steps + 1, i), shift);
    if (i == 0 && std::fabs(sigma - 1.0) < kBelowOne) sigma -= kBelowOne;
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
  FPSA_CHECK(steps >= 1 && steps <= kTrainSteps, "number of denoising steps must be from 1 to ", kTrainSteps,
             ", received ", steps);
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
  FPSA_CHECK(std::isfinite(shift) && shift > 0.0, "flow shift must be a positive number, received ", shift,
             "; Wan2.1 uses 3 at 480p and 5 at 720p");
  FPSA_CHECK(order == 1 || order == 2, "solver order must be 1 or 2, received ", order);
}

}  // namespace fpsa::diffusion
