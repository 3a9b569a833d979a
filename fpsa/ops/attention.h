// Attention forward on torch tensors: checks, quantisation, tile order, threads, allocation.
//
// One call takes raster-order tensors and returns raster order; the tile order is only in the indices that the
// kernels read and write through.
#pragma once

#include <ATen/ATen.h>

#include <memory>
#include <optional>
#include <string_view>

#include "fpsa/kernel/table.h"
#include "fpsa/ops/plan.h"
#include "fpsa/plan/attention_plan.h"

namespace fpsa::ops {

using plan::Precision;

struct AttentionOptions {
  Precision precision = Precision::kNone;
  bool smooth_keys = false;     // K is coded less its mean over the tokens; for precisions with codes
  std::optional<double> scale;  // softmax scale; 1/sqrt(D) when absent
  bool heads_first = false;     // q, k, v, out are [B,H,L,D] instead of [B,L,H,D]
  bool want_lse = false;
  bool want_row_max = false;
  bool want_exact = false;        // for the backward, which kInt8 does not have
  std::optional<at::Tensor> out;  // written instead of a new tensor: q's shape and dtype, innermost contiguous
};

struct AttentionResult {
  at::Tensor out;
  at::Tensor lse;           // [B,H,Lq] F32, natural log, raster order; undefined unless wanted
  at::Tensor row_max;       // [B,H,Lq] F32, integers in log2 units, raster order; undefined unless wanted
  at::Tensor exact;         // out as it would be with unrounded P, for the backward; undefined unless wanted
  std::string_view kernel;  // the entry that ran
  std::string_view coder;   // the entry that made the codes; empty at precision kNone
  kernel::Isa isa = kernel::Isa::kReference;
  std::string_view isa_name;  // of isa; "sm90a" on CUDA, where isa means nothing
};

/// out = softmax(scale q k^T over the plan's visible keys) v. CUDA tensors: ops/cuda_attention.h.
///   Shapes    q, k, v, out [B,L,H,D] (or heads first), L = plan.tokens(), raster order; D a multiple of 8, 8 to 256
///   Layout    any strides whose innermost is 1 are read in place
///   Numerics  F32 or BF16 in and out, all alike; kernel/attention.h says how. A plan that is dense, at precision
///             kNone, gives the bits of dense_attention
///   Threads   at::parallel_for over units of work (plan/attention_plan.h); their number does not change the bytes
///   Errors    c10::Error names argument, expected, received, remedy. No gradients: an input that requires them while
///             they are enabled is an error that names differentiable_attention
AttentionResult attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Plan& plan,
                          const AttentionOptions& options = {});

/// The same over all keys, without a grid: self- or cross-attention, precision kNone.
///   Shapes    q, out [B,Lq,H,D]; k, v [B,Lk,H,D] (or heads first)
///   Edges     Lk = 0 gives zeros
AttentionResult dense_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                const AttentionOptions& options = {});

}  // namespace fpsa::ops
