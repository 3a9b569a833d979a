// Attention with gradients: the forward and backward kernels as one step of autograd.
//
// What is saved is linear in the number of tokens: q, k, v, one output, the log-sum-exp and, with E4M3, the running
// maximum. The backward makes the same codes again, and gradients go straight through the casts to q, k and v.
#pragma once

#include <ATen/ATen.h>

#include <memory>

#include "fpsa/ops/attention.h"

namespace fpsa::ops {

struct AttentionGradients {
  at::Tensor q, k, v;  // of the shape, dtype and layout (heads first or not) of the inputs, contiguous
};

/// Throws for precision kInt8 and for smooth_keys, which are for inference.
void check_has_backward(const AttentionOptions& options, const char* op);

/// What attention() must return for the backward: lse, and with E4M3 row_max and exact.
AttentionOptions saving(AttentionOptions options);

/// Gradients of attention(q, k, v, plan, options).out.
///   Shapes    d_out that of out; `forward` what attention() returned with saving(options), unchanged
///   Numerics  kernel/attention_bwd.h, by the entry of the forward's level or, where that has none (AMX), the best
///   below
///             it, whose sums in another order may move a score across a code's border. dQ of a head is summed in at
///             most 8 shares, whose number depends on the mask
///   Threads   at::parallel_for over (batch, head, share); the bytes do not depend on the number of threads
///   Errors    c10::Error names argument, expected, received; inputs that need a gradient while they are enabled;
///             precision kInt8 and smooth_keys, which are for inference
AttentionGradients attention_backward(const at::Tensor& d_out, const at::Tensor& q, const at::Tensor& k,
                                      const at::Tensor& v, const AttentionResult& forward, const Plan& plan,
                                      const AttentionOptions& options = {});

/// Gradients of dense_attention(q, k, v, options).out.
AttentionGradients dense_attention_backward(const at::Tensor& d_out, const at::Tensor& q, const at::Tensor& k,
                                            const at::Tensor& v, const AttentionResult& forward,
                                            const AttentionOptions& options = {});

/// attention() whose out is differentiable in q, k and v; lse and row_max are not.
///   Errors    as attention(), and options.out: the result of a step of autograd is a tensor of its own. A second
///             derivative (create_graph) is refused in the backward
AttentionResult differentiable_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                         std::shared_ptr<const Plan> plan, const AttentionOptions& options = {});

/// dense_attention() likewise.
AttentionResult differentiable_dense_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                               const AttentionOptions& options = {});

}  // namespace fpsa::ops
