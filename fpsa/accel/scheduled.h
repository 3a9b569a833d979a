// Attention by a schedule as plain functions of tensors: what the operators of torch.ops.fpsa call.
//
// AttentionMethod keeps a report and a clock and belongs to one run; these keep nothing, so that they can be traced,
// compiled, recomputed and called from any thread. The bits are those of make_fps() and make_dense().
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "fpsa/ops/attention_grad.h"
#include "fpsa/schedule/schedule.h"

namespace fpsa::accel {

/// Everything about a call but its tensors.
struct ScheduledCall {
  std::shared_ptr<const schedule::Schedule> schedule;  // valid; null: dense over all keys, without a grid
  pattern::Grid grid;
  std::vector<int64_t> phases = {0};        // indices from 0: one for the whole batch, or one for each sample
  int64_t layer = 0;                        // that overrides are looked up by
  std::shared_ptr<const ops::Plan> masked;  // a mask of the caller's in place of the schedule's patterns, or null
  std::optional<double> scale;              // softmax scale; 1/sqrt(D) when absent
  bool heads_first = false;                 // q, k, v, out are [B,H,L,D] instead of [B,L,H,D]
  bool save = false;                        // keep what the backward needs
};

/// What a call gives. `row_max` and `exact` are undefined unless saved for a schedule that has E4M3 somewhere.
struct ScheduledResult {
  at::Tensor out;
  at::Tensor lse;      // [B,H,Lq] F32, natural log, raster order
  at::Tensor row_max;  // [B,H,Lq] F32, integers in log2 units
  at::Tensor exact;    // out with unrounded P; out itself where a head or sample is not coded
};

/// Whether some phase or override of the schedule is in E4M3, so that its backward needs row_max and exact.
bool has_e4m3(const schedule::Schedule& schedule);

/// out = softmax(scale q k^T over the visible keys) v, each sample by its phase, each head by its setting.
///   Shapes    q, k, v, out [B,L,H,D] (or heads first), L that of the grid, raster order; without a schedule k and v
///             may have a length of their own
///   Layout    any strides whose innermost is 1 are read in place
///   Threads   as ops::attention
///   Errors    c10::Error of kind ValueError or TypeError, or fpsa::Error: tensors (as ops::attention), a schedule that
///             does not fit grid or heads, phases out of range; save with INT8, which has no backward
ScheduledResult scheduled_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                    const ScheduledCall& call);

/// Gradients of scheduled_attention(q, k, v, call).out, from what it saved.
///   Errors    as ops::attention_backward
ops::AttentionGradients scheduled_attention_backward(const at::Tensor& d_out, const at::Tensor& q, const at::Tensor& k,
                                                     const at::Tensor& v, const ScheduledResult& saved,
                                                     const ScheduledCall& call);

}  // namespace fpsa::accel
