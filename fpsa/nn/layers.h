// Small layers shared by the models. Weights are cast to the activation's dtype at use (a no-op when they
// match), so F32 master weights train under BF16 activations and inference casts nothing.
#pragma once

#include <ATen/ATen.h>

#include <optional>

#include "fpsa/nn/parameters.h"

namespace fpsa::nn {

/// y = x W^T + b.  x [..., in], weight [out, in], bias [out] or undefined. With an adapter, y += scale x A^T B^T.
struct Linear {
  Linear() = default;
  /// Initialised as torch's Linear unless `init` says otherwise: uniform with half width 1/sqrt(in).
  Linear(const Scope& scope, int64_t in, int64_t out, bool has_bias = true, bool keep_f32 = false);
  Linear(const Scope& scope, int64_t in, int64_t out, bool has_bias, bool keep_f32, Init init);
  at::Tensor operator()(const at::Tensor& x) const;
  /// The weight with the adapter added, in F32, as loading would merge it; the weight itself without one.
  at::Tensor merged_weight() const;

  at::Tensor weight, bias;
  std::optional<LowRank> adapter;  // only while one is trained: loading merges adapters into the weight
};

/// x / sqrt(mean(x^2) + eps) * weight over the last dimension; statistics in F32, result in x's dtype.
struct RmsNorm {
  RmsNorm() = default;
  RmsNorm(const Scope& scope, int64_t dim, double eps, bool keep_f32 = false);
  at::Tensor operator()(const at::Tensor& x) const;

  at::Tensor weight;
  double eps = 1e-6;
};

/// LayerNorm over the last dimension, computed in F32, result in x's dtype; affine is optional.
struct LayerNorm {
  LayerNorm() = default;
  LayerNorm(const Scope& scope, int64_t dim, double eps, bool affine, bool keep_f32 = true);
  at::Tensor operator()(const at::Tensor& x) const;

  int64_t dim = 0;
  double eps = 1e-6;
  at::Tensor weight, bias;  // undefined without affine
};

}  // namespace fpsa::nn
