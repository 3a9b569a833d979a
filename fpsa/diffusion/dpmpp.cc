#include "fpsa/diffusion/dpmpp.h"

#include <cmath>

namespace fpsa::diffusion {

at::Tensor Dpmpp2m::advance(int64_t index, const at::Tensor&, const at::Tensor& data, const at::Tensor& sample) {
  const double sigma = sigmas().sigmas[index], sigma_next = sigmas().sigmas[index + 1];
  const double h = log_snr_half(sigma_next) - log_snr_half(sigma);
  const double weight = -(1.0 - sigma_next) * std::expm1(-h);  // of the data estimate; 1 when the next level is 0
  at::Tensor next = sample * (sigma_next / sigma) + data * weight;
  const bool last = index + 1 == sigmas().steps();
  if (order_ == 2 && last_data_.defined() && !last) {
    const double h_last = log_snr_half(sigma) - log_snr_half(sigmas().sigmas[index - 1]);
    next = next + (data - last_data_) * (0.5 * weight * h / h_last);
  }
  last_data_ = data;
  return next;
}

}  // namespace fpsa::diffusion
