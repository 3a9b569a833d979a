// Euler's method on the flow: x += (sigma_next - sigma) * velocity.
#pragma once

#include "fpsa/diffusion/sampler.h"

namespace fpsa::diffusion {

class Euler : public Sampler {
 public:
  explicit Euler(Sigmas sigmas) : Sampler(std::move(sigmas)) {}

 private:
  at::Tensor advance(int64_t index, const at::Tensor& velocity, const at::Tensor& data,
                     const at::Tensor& sample) override;
};

}  // namespace fpsa::diffusion
