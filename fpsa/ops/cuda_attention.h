// Attention on CUDA tensors by the sm_90a kernels: what the functions of attention.h, attention_grad.h and prepass.h do
// there.
//
// Nothing waits for the device: memory comes from torch's allocator, work goes to torch's current stream, the plan was
// uploaded when first used. So a call may be captured in a graph once its plan is on the device (cuda_plan.h).
#pragma once

#include <ATen/ATen.h>

#include <string>

#include "fpsa/ops/attention.h"
#include "fpsa/ops/attention_grad.h"
#include "fpsa/ops/prepass.h"

namespace fpsa::ops {

/// What decides whether the kernels take a call.
struct CudaRequest {
  at::ScalarType dtype = at::kBFloat16;
  int64_t dim = 128;
  Precision precision = Precision::kNone;
  bool smooth_keys = false;
};
/// Why they do not, with the remedy; empty when they do. Pure: of the device nothing is asked.
std::string cuda_refusal(const CudaRequest& request);
/// The same with the device of q: also the kernels' absence from this build, or another compute capability.
std::string cuda_refusal(const at::Tensor& q, const CudaRequest& request);

/// attention() on CUDA.
///   Shapes    as attention(); D 64 or 128
///   Layout    strides of 16 bytes are read and written in place; inputs with others are copied, an output is refused
///   Numerics  BF16 in; precision kE4m3: codes with the bits of kernel/prepass.h; out BF16 or, by options.out, F16 or F32;
///             docs/gpu/kernel.md
///   Threads   deterministic
///   Errors    c10::Error or fpsa::Error names argument, expected, received, remedy
AttentionResult cuda_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Plan& plan,
                               const AttentionOptions& options);

/// dense_attention() on CUDA, where queries are as many as keys.
AttentionResult cuda_dense_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                     const AttentionOptions& options);
/// The plan that it takes: its tokens in a row, in tiles of 512.
std::shared_ptr<const Plan> cuda_dense_plan(int64_t tokens);

/// attention_of_projected() on CUDA, precision kE4m3.
AttentionResult cuda_attention_of_projected(const Projected& x, const Plan& plan, Precision precision,
                                            bool smooth_keys);

/// attention_backward() on CUDA. d_out BF16 or F32; gradients have q's dtype.
AttentionGradients cuda_attention_backward(const at::Tensor& d_out, const at::Tensor& q, const at::Tensor& k,
                                           const at::Tensor& v, const AttentionResult& forward, const Plan& plan,
                                           const AttentionOptions& options);

}  // namespace fpsa::ops
