// The kernels of attention on CUDA by name: for what ran and for what would run.
#pragma once

#include <ATen/ATen.h>

#include <string>
#include <string_view>

#include "fpsa/ops/attention.h"

namespace fpsa::ops {

/// What a call runs there; the coder is empty without codes.
struct CudaNames {
  std::string_view kernel, coder, isa;
};

/// Of a call that the kernels take (cuda_refusal of cuda_attention.h), with inputs of this type.
CudaNames cuda_names(at::ScalarType dtype, Precision precision);
/// Why no kernel of this build runs on that device, or with cuda without a number on any; empty where they do.
std::string cuda_unavailable(at::Device device);

}  // namespace fpsa::ops
