#include "fpsa/nn/layers.h"

#include <cmath>

namespace fpsa::nn {
namespace {

at::Tensor as(const at::Tensor& weight, const at::Tensor& x) {
  return weight.defined() ? weight.to(x.scalar_type()) : weight;
}

// F32, or F64 for F64 activations (gradient checks).
at::ScalarType statistics_dtype(const at::Tensor& x) {
  return at::promote_types(x.scalar_type(), at::kFloat);
}

}  // namespace

Linear::Linear(const Scope& scope, int64_t in, int64_t out, bool has_bias, bool keep_f32)
    : Linear(scope, in, out, has_bias, keep_f32, Init::uniform(1.0 / std::sqrt(static_cast<double>(in)))) {}

Linear::Linear(const Scope& scope, int64_t in, int64_t out, bool has_bias, bool keep_f32, Init init) {
  weight = scope.param("weight", {out, in}, init, keep_f32);
  if (has_bias) bias = scope.param("bias", {out}, Init::zeros(), keep_f32);
  adapter = scope.low_rank("weight", {out, in});
}

at::Tensor Linear::operator()(const at::Tensor& x) const {
  const at::Tensor y = at::linear(x, as(weight, x), as(bias, x));
  if (!adapter) return y;
  return y + adapter->scale * at::linear(at::linear(x, as(adapter->a, x)), as(adapter->b, x));
}

at::Tensor Linear::merged_weight() const {
  if (!adapter) return weight;
  return weight.to(at::kFloat) + adapter->scale * at::mm(adapter->b, adapter->a);
}

RmsNorm::RmsNorm(const Scope& scope, int64_t dim, double eps_in, bool keep_f32) : eps(eps_in) {
  weight = scope.param("weight", {dim}, Init::ones(), keep_f32);
}

at::Tensor RmsNorm::operator()(const at::Tensor& x) const {
  at::Tensor f = x.to(statistics_dtype(x));
  at::Tensor normed = f * at::rsqrt(f.square().mean(-1, /*keepdim=*/true) + eps);
  return (normed * weight.to(f.scalar_type())).to(x.scalar_type());
}

LayerNorm::LayerNorm(const Scope& scope, int64_t dim_in, double eps_in, bool affine, bool keep_f32)
    : dim(dim_in), eps(eps_in) {
  if (affine) {
    weight = scope.param("weight", {dim}, Init::ones(), keep_f32);
    bias = scope.param("bias", {dim}, Init::zeros(), keep_f32);
  }
}

at::Tensor LayerNorm::operator()(const at::Tensor& x) const {
  at::Tensor w = weight.defined() ? weight.to(at::kFloat) : weight;
  at::Tensor b = bias.defined() ? bias.to(at::kFloat) : bias;
  return at::layer_norm(x.to(at::kFloat), {dim}, w, b, eps).to(x.scalar_type());
}

}  // namespace fpsa::nn
