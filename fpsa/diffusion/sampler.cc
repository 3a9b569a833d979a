#include "fpsa/diffusion/sampler.h"

#include <cmath>

#include "fpsa/base/check.h"
#include "fpsa/diffusion/dpmpp.h"
#include "fpsa/diffusion/euler.h"
#include "fpsa/diffusion/unipc.h"

namespace fpsa::diffusion {

at::Tensor Sampler::step(const at::Tensor& velocity, const at::Tensor& sample) {
  FPSA_CHECK(index_ < sigmas_.steps(), "the sampler's run has ", sigmas_.steps(),
             " steps and all were taken; make a new one");
  FPSA_CHECK(velocity.sizes() == sample.sizes(), "velocity must have the sample's shape ", sample.sizes(),
             ", received ", velocity.sizes());
  at::Tensor x = sample.to(at::kFloat);
  at::Tensor v = velocity.to(at::kFloat);
  at::Tensor next = advance(index_, v, x - v * sigmas_.sigmas[index_], x);
  ++index_;
  return next;
}

double log_snr_half(double sigma) {
  return std::log(1.0 - sigma) - std::log(sigma);
}

std::unique_ptr<Sampler> make_sampler(const SchedulerConfig& config, int64_t steps) {
  Sigmas sigmas = make_sigmas(config, steps);
  switch (config.sampler) {
    case SamplerKind::kUniPc:
      return std::make_unique<UniPc>(std::move(sigmas), config.order);
    case SamplerKind::kDpmpp2m:
      return std::make_unique<Dpmpp2m>(std::move(sigmas), config.order);
    case SamplerKind::kEuler:
      break;
  }
  return std::make_unique<Euler>(std::move(sigmas));
}

}  // namespace fpsa::diffusion
