// The seam between a model and the way its self-attention is computed.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>

#include "fpsa/pattern/grid.h"

namespace fpsa::nn {

/// Where in the run an attention call happens. Passed explicitly; never guessed from names.
struct AttentionContext {
  int64_t layer = 0;  // transformer layer, from 0
  int64_t num_layers = 1;
  int64_t step = 0;       // denoising step, from 0
  int64_t num_steps = 1;  // the schedule's f is step / num_steps (architecture: schedule)
  pattern::Grid grid;     // latent tokens (T, Y, X); T*Y*X == L, raster order
};

/// Queries, keys and values as the projections made them, and what makes the first two ready for attention: RMSNorm
/// over all heads together, then the rotation of every token's pairs.
struct Projections {
  at::Tensor q, k, v;             // [B, L, H*D], raster token order
  at::Tensor q_weight, k_weight;  // [H*D], of the norms
  double eps = 0;
  int64_t heads = 0;
  at::Tensor rope;  // [L, 1, D/2] complex, unit numbers
  /// Norm and rotation apart: [B, L, H*D] -> [B, L, H, D]. A method that fuses them gives the same bits.
  at::Tensor (*prepare)(const at::Tensor& x, const at::Tensor& weight, double eps, int64_t heads,
                        const at::Tensor& rope) = nullptr;
};

/// Computes self-attention for one layer and step.
class AttentionMethod {
 public:
  virtual ~AttentionMethod() = default;
  /// out = softmax(q k^T / sqrt(D)) v under this method's pattern and precision.
  ///   Shapes    q, k, v, out [B, L, H, D], raster token order; RMSNorm and RoPE already applied
  ///   Numerics  out has q's dtype
  ///   Errors    throws fpsa::Error (or c10::Error from an op) when the request cannot be met
  virtual at::Tensor self_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                    const AttentionContext& context) = 0;
  /// The same from the projections: what a model calls. A method that does better than prepare() and
  /// self_attention() overrides it; one that stands in front of another passes it on.
  ///   Shapes    out [B, L, H, D]
  ///   Numerics  the bits of prepare() and self_attention()
  virtual at::Tensor attend(const Projections& x, const AttentionContext& context) {
    return self_attention(x.prepare(x.q, x.q_weight, x.eps, x.heads, x.rope),
                          x.prepare(x.k, x.k_weight, x.eps, x.heads, x.rope),
                          x.v.view({x.v.size(0), x.v.size(1), x.heads, -1}), context);
  }
};

}  // namespace fpsa::nn
