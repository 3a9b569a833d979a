// What every attention forward for sm_90a takes, whatever its operands are.
#pragma once

#include <cstdint>

#include "fpsa/kernel/cuda/ptx/tensor_map.h"
#include "fpsa/kernel/cuda/tiling/work_list.h"

namespace fpsa::kernel::cuda::inline FPSA_TARGET {

enum class OutType : int { kBf16, kF16, kF32 };

/// [B,H,L,D], raster order; strides in elements, D contiguous, rows at multiples of 16 bytes.
struct OutView {
  void* data = nullptr;
  OutType type = OutType::kBf16;
  int64_t batch_stride = 0, head_stride = 0, row_stride = 0;
};

///   Shapes    row_of_slot [query slots]; lse, row_max [B,H,L], raster order, or null
///   Layout    slots and segments: tiling/segments.h. The maps are those of the kernel's header
///   Requires  items of all heads and batches fewer than 2^31; a grid of whole clusters
struct AttentionParams {
  ptx::TensorMap q, k, v;
  const WorkItem* items = nullptr;
  const int32_t* entries = nullptr;
  const int32_t* row_of_slot = nullptr;  // raster row, -1 for none
  int32_t item_count = 0;                // of WorkList::items
  int32_t paired = 0;                    // WorkList::paired, read by clusters only
  int32_t batch = 0, heads = 0;
  int32_t query_segments = 0, key_segments = 0;  // of one head
  int64_t queries = 0;                           // L
  bool shared_mask = true;
  float log2_factor = 0;  // log2(e) softmax_scale
  OutView out;
  float *lse = nullptr, *row_max = nullptr;
};

/// How a kernel copies its operands.
struct AttentionMaps {
  ptx::TensorMapSpec q, k, v;
};

}  // namespace fpsa::kernel::cuda::inline FPSA_TARGET
