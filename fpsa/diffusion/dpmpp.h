// DPM-Solver++ 2M (Lu et al. 2022, arXiv 2211.01095, algorithm 2) on flow levels: exact for the linear part, the data
// estimate extrapolated from the last two. The first and the last step are first order.
#pragma once

#include "fpsa/diffusion/sampler.h"

namespace fpsa::diffusion {

class Dpmpp2m : public Sampler {
 public:
  Dpmpp2m(Sigmas sigmas, int64_t order) : Sampler(std::move(sigmas)), order_(order) {}

 private:
  at::Tensor advance(int64_t index, const at::Tensor& velocity, const at::Tensor& data,
                     const at::Tensor& sample) override;

  int64_t order_;
  at::Tensor last_data_;
};

}  // namespace fpsa::diffusion
