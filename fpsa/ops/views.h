// Checks and views of [B,L,H,D] tensors, shared by the operators.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <string_view>

#include "fpsa/kernel/attention.h"
#include "fpsa/plan/geometry.h"
#include "fpsa/plan/strided.h"

namespace fpsa::ops {

/// A tensor in [B,L,H,D] order whose innermost stride is 1; a copy only where it must be.
at::Tensor tokens_first(const at::Tensor& x, bool heads_first);

/// Where an operator has kernels.
enum class Devices { kCpu, kCpuAndCuda };

/// Checks dimension, dtype (F32 or BF16, on CUDA also F16; ops/cuda_attention.h knows more), head dim and device of one
/// argument of an operator.
void check_tokens(const at::Tensor& x, std::string_view op, std::string_view name, bool heads_first,
                  Devices devices = Devices::kCpu);

/// Checks that k or v has the batch, heads, head dim and dtype of q; all in [B,L,H,D] order.
void check_like_q(const at::Tensor& x, std::string_view name, const at::Tensor& q, std::string_view op);

/// The kernels' name of F32 and BF16.
kernel::Dtype kernel_dtype(at::ScalarType type);

/// Rows of one (batch, head) of a [B,L,H,D] tensor.
kernel::RowsView rows_of(const at::Tensor& x, int64_t b, int64_t h, const int32_t* index);

/// A [B,L,H,D] tensor as the plan room reads it.
plan::Source source_of(const at::Tensor& x);

/// Whether autograd records what is computed from these.
bool gradients_wanted(at::TensorList tensors);
/// Throws if it does.
void check_no_gradient(std::string_view op, at::TensorList tensors);

/// Checks that an argument has the plan's tokens.
void check_grid(const plan::Geometry& plan, int64_t tokens, std::string_view op, std::string_view name);
/// Checks that the plan's mask is shared or has an entry for each head.
void check_mask_heads(const plan::Geometry& plan, int64_t heads, std::string_view op);

}  // namespace fpsa::ops
