// Attention on CUDA tensors by the sm_90a kernels: what ops::attention and ops::attention_of_projected do there.
//
// Nothing waits for the device: memory comes from torch's allocator, work goes to torch's current stream, the plan was
// uploaded when first used. So a call may be captured in a graph once its plan is on the device (cuda_plan.h).
#pragma once

#include <ATen/ATen.h>

#include <string>

#include "fpsa/ops/attention.h"
#include "fpsa/ops/prepass.h"

namespace fpsa::ops {

/// What decides whether the kernels take a call.
struct CudaRequest {
  at::ScalarType dtype = at::kBFloat16;
  int64_t dim = 128;
  Precision precision = Precision::kE4m3;
  bool smooth_keys = false;
  bool gradients = false;
};
/// Why they do not, with the remedy; empty when they do. Pure: of the device nothing is asked.
std::string cuda_refusal(const CudaRequest& request);
/// The same with the device of q: also the kernels' absence from this build, or another compute capability.
std::string cuda_refusal(const at::Tensor& q, const CudaRequest& request);

/// attention() on CUDA.
///   Shapes    as attention(); D 64 or 128
///   Layout    strides of 16 bytes are read and written in place; inputs with others are copied, an output is refused
///   Numerics  BF16 in, E4M3 codes by kernel/prepass.h's bits, out BF16 or, by options.out, F16 or F32;
///             docs/gpu/kernel.md
///   Threads   deterministic
///   Errors    c10::Error or fpsa::Error names argument, expected, received, remedy
AttentionResult cuda_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Plan& plan,
                               const AttentionOptions& options);

/// attention_of_projected() on CUDA.
AttentionResult cuda_attention_of_projected(const Projected& x, const Plan& plan, Precision precision,
                                            bool smooth_keys);

}  // namespace fpsa::ops
