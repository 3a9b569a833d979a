// The steps of attention on CUDA, apart: ops/cuda_attention.h takes them one after the other, the bench times each.
#pragma once

#include <ATen/ATen.h>

#include <memory>

#include "fpsa/kernel/cuda/launch.h"
#include "fpsa/ops/attention_grad.h"
#include "fpsa/ops/cuda_plan.h"

namespace fpsa::ops {

/// Inputs that the kernels can read: BF16, or without codes all F16, q [B,Lq,H,D], k and v [B,Lk,H,D], D 64 or 128 and
/// contiguous, strides and data at multiples of 16 bytes.
struct CudaInputs {
  at::Tensor q, k, v;
  at::Tensor q_weight, k_weight;  // F32 [H*D] of the norm, or undefined: none; with codes only, as turns
  at::Tensor turns;               // F32, L * D values: cos, sin ... of each pair, or undefined: none
  float eps = 0;
};

/// Strides of a [B,L,H,D] tensor for a launch, in elements: 0 along a dimension of one, which nobody steps along and
/// where torch allows any.
struct KernelStrides {
  int64_t batch = 0, row = 0, head = 0;
};
KernelStrides kernel_strides(const at::Tensor& x);
/// Whether a [B,L,H,D] tensor of two or four bytes an element has contiguous channels, and strides and data at
/// multiples of 16 bytes.
bool readable_by_kernels(const at::Tensor& x);

/// What the attention kernels read. With codes: bytes and F32 (kernel/cuda/attention_fwd_e4m3_sm90a.h); without: BF16
/// or F16 by slots (attention_fwd_bf16_sm90a.h), and no scales.
struct CudaPacked {
  at::Tensor q, k, v, q_scale, k_scale, v_scale;
};

/// What the forward leaves for the backward. out: the exact one with codes, [B,L,H,D]; lse, row_max [B,H,L], the latter
/// with codes only.
struct CudaSaved {
  at::Tensor out, lse, row_max;
};

/// One call's packed operands and the launches that make and use them, on torch's stream at the time of each.
///   Requires  B and H at least 1
///   Errors    those of plan_on_device and of the launches (kernel/cuda/launch.h, quantize_launch.h)
class CudaSteps {
 public:
  /// coded: E4M3, else BF16
  CudaSteps(CudaInputs inputs, const Plan& plan, bool coded);
  /// Without codes, keys of another number than queries.
  ///   Requires  the plan outlives the steps
  CudaSteps(CudaInputs inputs, const CrossPlan& plan);

  /// Q, K and V to codes, or to slots.
  void pack() const;
  /// Attention on what is packed.
  ///   Shapes    out [B,L,H,D] BF16, F16 or F32; lse, row_max F32 [B,H,L] contiguous, or undefined
  ///   Units     exact: out with unrounded P, with codes only; lse and row_max may then be undefined
  void attend(float softmax_scale, const at::Tensor& out, const at::Tensor& lse, const at::Tensor& row_max,
              bool exact = false) const;
  /// Gradients from what is packed.
  ///   Shapes    d_out and d_q [B,Lq,H,D], d_k, d_v [B,Lk,H,D], BF16, F16 or F32
  void backward(float softmax_scale, const at::Tensor& d_out, const CudaSaved& saved,
                const AttentionGradients& gradients) const;

  const CudaPacked& packed() const { return packed_; }
  /// Blocks of threads of a cluster in attend(): 2 where pairs of items share their keys (docs/gpu/kernel.md), or 1.
  int cluster(bool exact = false) const;

 private:
  CudaSteps(CudaInputs inputs, bool coded);
  int device() const { return inputs_.q.device().index(); }
  void allocate();
  std::shared_ptr<const DeviceWorkList> key_work(void* stream) const;
  void quantize_rows(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& codes, const at::Tensor& scale,
                     void* stream) const;
  void quantize_values(void* stream) const;
  void pack_rows(const at::Tensor& x, const DevicePlan& plan, const at::Tensor& to, void* stream) const;
  at::Tensor expanded(const at::Tensor& codes, bool of_values, void* stream) const;

  CudaInputs inputs_;
  bool coded_;
  const Plan* host_plan_ = nullptr;        // the one of both sides, or:
  const CrossPlan* cross_plan_ = nullptr;  // of queries and keys
  int64_t batch_, tokens_, heads_, dim_;   // tokens_: queries
  std::shared_ptr<const DevicePlan> plan_, key_plan_;
  std::shared_ptr<const DeviceWorkList> cross_work_;
  kernel::cuda::DeviceWork work_;  // of the queries, in plan_ or cross_work_
  CudaPacked packed_;
  at::Tensor scratch_;
};

}  // namespace fpsa::ops
