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

/// Of a call that the kernels take (cuda_refusal of cuda_attention.h), with inputs of this type. What ran also says in
/// its kernel's name whether in clusters of two blocks of threads, which take pairs of items (`cluster` 2: "paired"),
/// or in single ones (1: "single"); 0: not launched, or not known yet.
CudaNames cuda_names(at::ScalarType dtype, Precision precision, int cluster = 0);
/// Why no kernel of this build runs on that device, or with cuda without a number on any; empty where they do.
std::string cuda_unavailable(at::Device device);

}  // namespace fpsa::ops
