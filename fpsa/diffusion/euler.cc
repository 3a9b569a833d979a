#include "fpsa/diffusion/euler.h"

namespace fpsa::diffusion {

at::Tensor Euler::advance(int64_t index, const at::Tensor& velocity, const at::Tensor&, const at::Tensor& sample) {
  return sample + velocity * (sigmas().sigmas[index + 1] - sigmas().sigmas[index]);
}

}  // namespace fpsa::diffusion
