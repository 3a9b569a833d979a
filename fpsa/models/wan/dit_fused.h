// The pointwise work between the transformer's matrix products, one pass over memory each.
//
// Every function has a fused form (CPU, F32 or BF16, widths that are a multiple of 16) and a composed form of torch
// operators, which serves every other case and defines the derivative. Norm and rotation are ops::prepare_heads, so
// that quantised attention, which does them on the way (ops/prepass.h), has their bits. Both compute in F32 (F64 for
// F64 input) and round once at the end. All are differentiable in every tensor argument but the table.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>

namespace fpsa::models::wan {

/// RMSNorm over the full width, split into heads, then (with a table) the rotation of rope_table().
///   Shapes    x [B, L, H*D]; weight [H*D]; table [L, 1, D/2] complex or undefined; out [B, L, H, D]
///   Numerics  out has x's dtype
at::Tensor norm_heads(const at::Tensor& x, const at::Tensor& weight, double eps, int64_t heads,
                      const at::Tensor& table);

/// LayerNorm(x) * scale + shift.
///   Shapes    x [B, L, C] F32 or F64; scale, shift [1 or B, 1, C]; out [B, L, C] of `dtype`
at::Tensor modulated_norm(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& shift, double eps,
                          at::ScalarType dtype);

/// x + y * gate. Without autograd x itself is overwritten and returned.
///   Shapes    x [B, L, C] F32 or F64, contiguous; y [B, L, C] any dtype; gate [1 or B, 1, C] or undefined for 1
at::Tensor add_residual(const at::Tensor& x, const at::Tensor& y, const at::Tensor& gate);

/// The composed forms, for tests.
at::Tensor norm_heads_composed(const at::Tensor& x, const at::Tensor& weight, double eps, int64_t heads,
                               const at::Tensor& table);
at::Tensor modulated_norm_composed(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& shift, double eps,
                                   at::ScalarType dtype);

}  // namespace fpsa::models::wan
