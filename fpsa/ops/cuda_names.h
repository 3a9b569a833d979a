// The kernels of attention on CUDA by name: for what ran and for what would run.
#pragma once

#include <ATen/ATen.h>

#include <string_view>

#include "fpsa/ops/attention.h"

namespace fpsa::ops {

/// What a call runs there; the coder is empty without codes.
struct CudaNames {
  std::string_view kernel, coder, isa;
};

/// Of a call that the kernels take (cuda_refusal of cuda_attention.h), with inputs of this type.
CudaNames cuda_names(at::ScalarType dtype, Precision precision);

}  // namespace fpsa::ops
