// torch's own dense attention, for devices that the kernels do not serve.
#pragma once

#include <ATen/ATen.h>

#include <string>

#include "fpsa/accel/methods.h"

namespace fpsa::accel {

/// softmax(q k^T / sqrt(D)) v over all keys by torch, on any device, with its gradients.
///   Shapes    q, k, v, out [B,L,H,D]
/// The entry says what ran and, as its reason, `why` not the kernels.
at::Tensor torch_dense(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const std::string& why,
                       Explain& entry);

}  // namespace fpsa::accel
