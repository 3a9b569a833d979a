// UniPC (Zhao et al. 2023, arXiv 2302.04867) with B(h) = e^h - 1 and data prediction: a multistep predictor, and a
// corrector of the same order that redoes the previous step once the model has been evaluated at its end, for free.
#pragma once

#include <vector>

#include "fpsa/diffusion/sampler.h"

namespace fpsa::diffusion {

class UniPc : public Sampler {
 public:
  UniPc(Sigmas sigmas, int64_t order) : Sampler(std::move(sigmas)), order_(order) {}

 private:
  struct Interval;  // coefficients of one step
  at::Tensor advance(int64_t index, const at::Tensor& velocity, const at::Tensor& data,
                     const at::Tensor& sample) override;
  Interval interval(int64_t index) const;
  at::Tensor predict(int64_t index, const at::Tensor& sample, int64_t order) const;
  at::Tensor correct(int64_t index, const at::Tensor& data, int64_t order) const;

  int64_t order_;
  int64_t last_order_ = 0;         // of the step that the next call corrects
  at::Tensor last_sample_;         // where that step began
  at::Tensor data_, data_before_;  // the last two data estimates, newest first
};

}  // namespace fpsa::diffusion
