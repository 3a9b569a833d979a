// Samplers: from the model's velocity at one noise level to the sample at the next.
#pragma once

#include <ATen/ATen.h>

#include <memory>

#include "fpsa/diffusion/sigmas.h"

namespace fpsa::diffusion {

/// One run of a sampler: `step` is called once per level, in order.
class Sampler {
 public:
  virtual ~Sampler() = default;
  /// The sample at the next level.
  ///   Shapes    velocity and sample alike, any shape; velocity is noise - data as the model predicts it
  ///   Numerics  F32; coefficients in F64
  ///   Errors    fpsa::Error when called more often than the run has steps
  at::Tensor step(const at::Tensor& velocity, const at::Tensor& sample);

  const Sigmas& sigmas() const { return sigmas_; }

 protected:
  explicit Sampler(Sigmas sigmas) : sigmas_(std::move(sigmas)) {}
  /// One step from level `index`; `data` is the model's estimate sample - sigma * velocity.
  virtual at::Tensor advance(int64_t index, const at::Tensor& velocity, const at::Tensor& data,
                             const at::Tensor& sample) = 0;

 private:
  Sigmas sigmas_;
  int64_t index_ = 0;
};

/// The sampler that `config` names, over its levels for `steps`.
std::unique_ptr<Sampler> make_sampler(const SchedulerConfig& config, int64_t steps);

/// Half the log signal-to-noise ratio of a flow level: log((1 - sigma) / sigma); +infinity at 0.
double log_snr_half(double sigma);

}  // namespace fpsa::diffusion
