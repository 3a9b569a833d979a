// The two steps of attention on CUDA, apart: ops/cuda_attention.h takes them one after the other, the bench times each.
#pragma once

#include <ATen/ATen.h>

#include <memory>

#include "fpsa/ops/cuda_plan.h"

namespace fpsa::ops {

/// Inputs that the kernels can read: BF16 [B,L,H,D], D 64 or 128, D contiguous, strides and data at multiples of 16 bytes.
struct CudaInputs {
  at::Tensor q, k, v;
  at::Tensor q_weight, k_weight;  // F32 [H*D] of the norm, or undefined: none
  at::Tensor turns;               // F32, L * D values: cos, sin ... of each pair, or undefined: none
  float eps = 0;
};

/// Whether a [B,L,H,D] tensor of two-byte elements has such strides.
bool readable_by_kernels(const at::Tensor& x);

/// Codes and scales as the kernels have them (kernel/cuda/attention_fwd_e4m3_sm90a.h): bytes and F32.
struct CudaCodes {
  at::Tensor q, k, v, q_scale, k_scale, v_scale;
};

/// One call's codes and the launches that make and use them, on torch's stream at the time of each.
///   Requires  B and H at least 1
///   Errors    those of plan_on_device and of the launches (kernel/cuda/launch.h, quantize_launch.h)
class CudaSteps {
 public:
  CudaSteps(CudaInputs inputs, const Plan& plan);

  /// Q, K and V to codes.
  void quantize() const;
  /// Attention on the codes.
  ///   Shapes    out [B,L,H,D] BF16, F16 or F32; lse, row_max F32 [B,H,L] contiguous, or undefined
  ///   Units     exact: out with unrounded P; lse and row_max may then be undefined
  void attend(float softmax_scale, const at::Tensor& out, const at::Tensor& lse, const at::Tensor& row_max,
              bool exact = false) const;

  const CudaCodes& codes() const { return codes_; }

 private:
  int device() const { return inputs_.q.device().index(); }
  void quantize_rows(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& codes, const at::Tensor& scale,
                     void* stream) const;

  CudaInputs inputs_;
  int64_t batch_, tokens_, heads_, dim_;
  std::shared_ptr<const DevicePlan> plan_;
  CudaCodes codes_;
  at::Tensor scratch_;
};

}  // namespace fpsa::ops
