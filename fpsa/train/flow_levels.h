// Noise levels of flow matching.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>

namespace fpsa::train {

/// Logit-normal levels, shifted: sigma = s u / (1 + (s - 1) u), u = sigmoid(normal).
///   Shapes    out [count] F32 in (0, 1]
inline at::Tensor draw_sigmas(int64_t count, double shift, at::Generator& generator) {
  const at::Tensor u = at::sigmoid(at::randn({count}, generator, at::kFloat));
  return (shift * u / (1.0 + (shift - 1.0) * u)).clamp_max(1.0);  // rounding may leave it just above
}

}  // namespace fpsa::train
