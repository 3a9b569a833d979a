// Attention on CUDA tensors by the sm_90a kernels: what the functions of attention.h, attention_grad.h and prepass.h do
// there.
//
// Nothing waits for the device: memory comes from torch's allocator, work goes to torch's current stream, the plan was
// uploaded when first used. So a call may be captured in a graph once its plan is on the device (cuda_plan.h).
#pragma once

#include <ATen/ATen.h>

#include <string>
#include <string_view>

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
  bool rounds_f32 = false;  // the caller lets products of F32 be those of BF16
};
/// Why they do not, with the remedy; empty when they do. Pure: of the device nothing is asked.
std::string cuda_refusal(const CudaRequest& request);
/// The same with the device of q: also the kernels' absence from this build, or another compute capability. rounds_f32
/// is torch's setting (float32_as_bfloat16).
std::string cuda_refusal(const at::Tensor& q, CudaRequest request);
/// Whether torch was told that products of F32 may be those of BF16: torch.set_float32_matmul_precision("medium").
bool float32_as_bfloat16();

/// The type that the kernels take a call's inputs in: F16 without codes as it is, all else BF16.
at::ScalarType cuda_operand_type(at::ScalarType dtype, Precision precision);

/// attention() on CUDA.
///   Shapes    as attention(); D 64 or 128
///   Layout    strides of 16 bytes are read and written in place; inputs with others are copied, an output is refused
///   Numerics  BF16 or F16 in, by kernels of that type. F32 in at precision kNone only if float32_as_bfloat16():
///             rounded to BF16. Precision kE4m3: F16 and F32 are rounded to BF16, by 2^-8 of a value at most where a
///             code is off by 2^-4, then codes with the bits of kernel/prepass.h. out: q's dtype or that of
///             options.out, BF16, F16 or F32, rounded once; docs/gpu/kernel.md
///   Threads   deterministic
///   Errors    c10::Error or fpsa::Error names argument, expected, received, remedy: first of the arguments, then of
///             the device; nothing is copied before
AttentionResult cuda_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Plan& plan,
                               const AttentionOptions& options);

/// dense_attention() on CUDA; numerics as above.
///   Edges     Lk = 0 gives zeros and lse -inf, as on the CPU
AttentionResult cuda_dense_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                     const AttentionOptions& options);

/// attention_of_projected() on CUDA: BF16, precision kE4m3. Others take the separate steps, which norm and rotate in
/// their own type.
AttentionResult cuda_attention_of_projected(const Projected& x, const Plan& plan, Precision precision,
                                            bool smooth_keys);

/// attention_backward() on CUDA. d_out BF16, F16 or F32; gradients have q's dtype. What rounding the forward did is not
/// asked for again. F16 without codes: P and dS are F16, and lose bits below 2^-14; docs/gpu/run.md says what to scale
/// the loss by.
AttentionGradients cuda_attention_backward(const at::Tensor& d_out, const at::Tensor& q, const at::Tensor& k,
                                           const at::Tensor& v, const AttentionResult& forward, const Plan& plan,
                                           const AttentionOptions& options);
/// dense_attention_backward() on CUDA.
AttentionGradients cuda_dense_attention_backward(const at::Tensor& d_out, const at::Tensor& q, const at::Tensor& k,
                                                 const at::Tensor& v, const AttentionResult& forward,
                                                 const AttentionOptions& options);

}  // namespace fpsa::ops
