// Launches of the sm_90a kernels on device memory, for host code that knows no CUDA headers.
#pragma once

#include <cstdint>

#include "fpsa/kernel/cuda/tiling/work_list.h"

namespace fpsa::kernel::cuda {

enum class DeviceOutType : int { kBf16, kF16, kF32 };

/// One attention_fwd_e4m3_sm90a (attention_fwd_e4m3_sm90a.h has shapes, layout and numerics). Pointers are of the
/// device.
struct AttentionFwdLaunch {
  const void *q = nullptr, *k = nullptr, *v = nullptr;  // codes, multiples of 16 bytes
  const float *q_scale = nullptr, *k_scale = nullptr, *v_scale = nullptr;
  const WorkItem* items = nullptr;
  const int32_t *entries = nullptr, *row_of_slot = nullptr;
  int64_t item_count = 0, batch = 0, heads = 0, query_segments = 0, key_segments = 0, queries = 0, dim = 0;
  int64_t paired = 0;  // WorkList::paired; attention_tiling.h says what becomes of it
  bool shared_mask = true, column_scales = false, exact = false;
  bool f16 = false;  // of launch_attention_fwd_bf16
  float softmax_scale = 1.0f;
  void* out = nullptr;
  DeviceOutType type = DeviceOutType::kBf16;
  int64_t batch_stride = 0, head_stride = 0, row_stride = 0;  // elements
  float *lse = nullptr, *row_max = nullptr;
};

/// Enqueues the kernel on a stream (a cudaStream_t) of the current device; returns at once and allocates nothing, so it
/// may be captured in a graph.
///   Errors    fpsa::Error: a device other than compute capability 9.0, a head dim other than 64 and 128, pointers or
///             strides that are not multiples of 16 bytes, 2^31 or more items or slots, an error of CUDA with its name
void launch_attention_fwd_e4m3(const AttentionFwdLaunch& launch, void* stream);

/// The same for attention_fwd_bf16_sm90a: q, k, v are slots of BF16, or with f16 of F16
/// (attention_fwd_bf16_sm90a.h), no scales, not exact.
void launch_attention_fwd_bf16(const AttentionFwdLaunch& launch, void* stream);

/// One pack_bf16_sm90a: rows of BF16 or F16 by strides (elements, D contiguous) to slots [batch,heads,32 segments,dim].
struct PackBf16Launch {
  const void* from = nullptr;
  int64_t batch_stride = 0, head_stride = 0, row_stride = 0;
  void* to = nullptr;
  const int32_t* row_of_slot = nullptr;
  int64_t batch = 0, heads = 0, segments = 0, dim = 0;
};
/// Enqueues it; errors as of launch_attention_fwd_e4m3.
void launch_pack_bf16(const PackBf16Launch& launch, void* stream);

/// Rows [B,H,L,D] of device memory, raster order; strides in elements, D contiguous, rows at multiples of 16 bytes.
struct DeviceRows {
  void* data = nullptr;
  DeviceOutType type = DeviceOutType::kBf16;
  int64_t batch_stride = 0, head_stride = 0, row_stride = 0;
};
/// A work list in device memory, and the raster row at each slot of its rows.
struct DeviceWork {
  const WorkItem* items = nullptr;
  const int32_t *entries = nullptr, *row_of_slot = nullptr;
  int64_t item_count = 0, paired = 0;  // paired: WorkList::paired, of which the backward makes nothing
};

/// One attention backward: attention_bwd_prepare and both passes of attention_bwd_bf16_sm90a
/// (attention_bwd_bf16_sm90a.h has shapes, layout and numerics). Pointers are of the device.
struct AttentionBwdLaunch {
  const void *q = nullptr, *k = nullptr, *v = nullptr;  // BF16 by slots, multiples of 16 bytes
  bool f16 = false;                                     // they are F16; not with codes
  bool coded = false;                                   // then q, k, v are codes as BF16, and these are needed:
  const void *q_codes = nullptr, *k_codes = nullptr;
  const float *q_scale = nullptr, *k_scale = nullptr, *v_scale = nullptr, *row_max = nullptr;
  const float* lse = nullptr;
  DeviceRows out, d_out;  // read only; out: the exact output with codes
  DeviceWork of_queries;  // of the mask
  DeviceWork of_keys;     // of exchanged(mask), layouts exchanged too
  int64_t batch = 0, heads = 0, query_segments = 0, key_segments = 0, queries = 0, dim = 0;
  bool shared_mask = true;
  float softmax_scale = 1.0f;
  DeviceRows d_q, d_k, d_v;
  void* scratch = nullptr;  // attention_bwd_scratch_bytes(), a multiple of 16
};
/// Bytes of device memory that the launch needs besides: d_out by slots and the statistics of the queries.
int64_t attention_bwd_scratch_bytes(int64_t batch, int64_t heads, int64_t query_segments, int64_t dim, bool coded);
/// Enqueues the three kernels; allocates nothing. Errors as of launch_attention_fwd_e4m3.
void launch_attention_bwd_bf16(const AttentionBwdLaunch& launch, void* stream);

/// Codes of Q or K [batch,heads,slots,dim], or of V [batch,heads,segments,dim,32], to BF16 [batch,heads,slots,dim].
struct ExpandCodesLaunch {
  const void* codes = nullptr;
  void* values = nullptr;
  int64_t segments = 0, dim = 0;  // segments: of all batches and heads
  bool of_values = false;         // V's order
};
/// Enqueues it; errors likewise.
void launch_expand_codes(const ExpandCodesLaunch& launch, void* stream);

}  // namespace fpsa::kernel::cuda
