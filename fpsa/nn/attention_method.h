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
};

}  // namespace fpsa::nn
