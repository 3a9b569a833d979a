// From the projections of self-attention to its result or to its queries and keys: RMSNorm over all heads together,
// rotation, quantisation. The separate and the fused form have the same bits, since they are the same kernel.
#pragma once

#include <ATen/ATen.h>

#include "fpsa/ops/attention.h"

namespace fpsa::ops {

/// Whether prepare_heads() takes x: [B,L,H*D] in F32 or BF16 on the CPU, D a multiple of 8 from 8 to 256.
bool preparable(const at::Tensor& x, int64_t heads);
/// Whether attention_of_projected() does: the same, and on a CUDA device BF16 of the kernels' head dims, in E4M3.
bool projectable(const at::Tensor& x, int64_t heads, Precision precision);

/// RMSNorm over the full width times weight, then the rotation of neighbouring pairs.
///   Shapes    x [B,L,H*D]; weight [H*D]; rope [L,1,D/2] complex64 contiguous, unit numbers, or undefined: none;
///             out [B,L,H,D]
///   Numerics  kernel/prepass.h; out has x's dtype
///   Threads   at::parallel_for over rows; the bytes do not depend on the number of threads
///   Errors    c10::Error names argument, expected, received. No gradients
at::Tensor prepare_heads(const at::Tensor& x, const at::Tensor& weight, double eps, int64_t heads,
                         const at::Tensor& rope);

/// Self-attention's projections before norm and rotation.
struct Projected {
  at::Tensor q, k, v;             // [B,L,H*D], one dtype, raster order
  at::Tensor q_weight, k_weight;  // [H*D], of the RMSNorm
  double eps = 0;
  int64_t heads = 0;
  at::Tensor rope;  // [L,1,D/2] complex64, or undefined
};

/// attention() of prepare_heads(q), prepare_heads(k) and v, without writing what is in between.
///   Shapes    out [B,L,H,D]
///   Requires  another precision than kNone
///   Numerics  the bits of the separate steps; with smooth_keys those of AttentionOptions::smooth_keys
///   Threads   as attention(); the codes of all samples exist at once
///   Errors    as prepare_heads() and attention()
AttentionResult attention_of_projected(const Projected& x, const Plan& plan, Precision precision,
                                       bool smooth_keys = false);

}  // namespace fpsa::ops
