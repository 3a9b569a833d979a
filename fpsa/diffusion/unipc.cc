#include "fpsa/diffusion/unipc.h"

#include <algorithm>
#include <cmath>

namespace fpsa::diffusion {

// The step from level `index` to the next, in half log signal-to-noise ratio: length h, and the position r (negative)
// of the level before it in units of h.
struct UniPc::Interval {
  double decay;  // factor of the sample
  double gain;   // factor of the data estimate: (1 - sigma_next) * (1 - e^-h); B(h) with alpha and sign taken in
  double h;
  double r;
};

UniPc::Interval UniPc::interval(int64_t index) const {
  const auto& levels = sigmas().sigmas;
  const double sigma = levels[index], sigma_next = levels[index + 1];
  const double here = log_snr_half(sigma);
  Interval out{};
  out.h = log_snr_half(sigma_next) - here;
  out.decay = sigma_next / sigma;
  out.gain = -(1.0 - sigma_next) * std::expm1(-out.h);
  out.r = index > 0 ? (log_snr_half(levels[index - 1]) - here) / out.h : 0.0;
  return out;
}

// Order 2 takes its single coefficient as 1/2, which the paper allows because the exact solution tends to it.
at::Tensor UniPc::predict(int64_t index, const at::Tensor& sample, int64_t order) const {
  const Interval s = interval(index);
  at::Tensor next = sample * s.decay + data_ * s.gain;
  if (order == 2) next = next + (data_before_ - data_) * (0.5 * s.gain / s.r);
  return next;
}

// Repeats the step that began at `index` with the data estimate at its end.
at::Tensor UniPc::correct(int64_t index, const at::Tensor& data, int64_t order) const {
  const Interval s = interval(index);
  double rho_before = 0.0, rho_end = 0.5;
  if (order == 2) {
    // [1 1; r 1] (rho_before, rho_end) = (b1, b2), where b_k = k! * phi_{k+1}-type integrals over B(h).
    const double z = -s.h, big = std::expm1(z);
    const double phi2 = big / z - 1.0;
    const double b1 = phi2 / big, b2 = 2.0 * (phi2 / z - 0.5) / big;
    rho_before = (b1 - b2) / (1.0 - s.r);
    rho_end = b1 - rho_before;
  }
  at::Tensor slope = (data - data_) * rho_end;
  if (order == 2) slope = slope + (data_before_ - data_) * (rho_before / s.r);
  return last_sample_ * s.decay + (data_ + slope) * s.gain;
}

at::Tensor UniPc::advance(int64_t index, const at::Tensor&, const at::Tensor& data, const at::Tensor& sample) {
  at::Tensor x = index > 0 ? correct(index - 1, data, last_order_) : sample;
  data_before_ = data_;
  data_ = data;
  // One estimate is known at the first step; the last step is first order, since its h is infinite.
  const int64_t remaining = sigmas().steps() - index;
  last_order_ = std::min({order_, remaining, index + 1});
  last_sample_ = x;
  return predict(index, x, last_order_);
}

}  // namespace fpsa::diffusion
