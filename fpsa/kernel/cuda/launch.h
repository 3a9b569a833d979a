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
  bool shared_mask = true, column_scales = false, exact = false;
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

/// The same for attention_fwd_bf16_sm90a: q, k, v are slots of BF16 (attention_fwd_bf16_sm90a.h), no scales, not exact.
void launch_attention_fwd_bf16(const AttentionFwdLaunch& launch, void* stream);

/// One pack_bf16_sm90a: rows of BF16 by strides (elements, D contiguous) to slots [batch,heads,32 segments,dim].
struct PackBf16Launch {
  const void* from = nullptr;
  int64_t batch_stride = 0, head_stride = 0, row_stride = 0;
  void* to = nullptr;
  const int32_t* row_of_slot = nullptr;
  int64_t batch = 0, heads = 0, segments = 0, dim = 0;
};
/// Enqueues it; errors as of launch_attention_fwd_e4m3.
void launch_pack_bf16(const PackBf16Launch& launch, void* stream);

}  // namespace fpsa::kernel::cuda
