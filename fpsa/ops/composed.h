// Attention composed of torch matrix products: the differentiable path that training uses.
//
// The forward keeps only q, k, v; the backward recomputes the probabilities, one block of query rows of one head
// at a time, so that neither ever holds an [L, L] matrix. Products run per (batch, head) and in q's dtype: on CPUs
// where torch's own attention takes a slow matrix-product path this is several times faster. Without a key mask,
// in F32 and BF16, the forward is dense_attention's, bit for bit: training sees what inference computes.
#pragma once

#include <ATen/ATen.h>

#include <optional>

namespace fpsa::ops {

/// out = softmax(scale * q k^T over the visible keys) v, differentiable in q, k and v.
///   Shapes    q [B,Lq,H,D]; k,v [B,Lk,H,D]; key_mask [B,Lk] bool, true = visible; out [B,Lq,H,D] contiguous
///   Layout    any strides
///   Units     scale defaults to 1/sqrt(D)
///   Edges     no visible key: out 0, gradients 0; Lq or Lk = 0 likewise
///   Numerics  F32, BF16 or F64, all three alike. Where the forward is composed and in every backward: in BF16
///             scores, probabilities and their gradients are rounded to BF16, softmax and the sums of key and value
///             gradients are F32. F64 is F64 throughout, the oracle for fused gradients
///   Threads   at::parallel_for over (batch, head); the bytes do not depend on the number of threads
///   Errors    checks everything; c10::Error names argument, expected, received
at::Tensor composed_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                              const std::optional<at::Tensor>& key_mask = std::nullopt,
                              std::optional<double> scale = std::nullopt);

}  // namespace fpsa::ops
