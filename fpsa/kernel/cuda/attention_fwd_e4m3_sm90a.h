// What one launch of attention_fwd_e4m3_sm90a takes.
#pragma once

#include <cstdint>

#include "fpsa/kernel/cuda/ptx/tensor_map.h"
#include "fpsa/kernel/cuda/tiling/attention_tiling.h"
#include "fpsa/kernel/cuda/tiling/work_list.h"

namespace fpsa::kernel::cuda::inline FPSA_TARGET {

enum class OutType : int { kBf16, kF16, kF32 };

/// [B,H,L,D], raster order; strides in elements, D contiguous, rows at multiples of 16 bytes.
struct OutView {
  void* data = nullptr;
  OutType type = OutType::kBf16;
  int64_t batch_stride = 0, head_stride = 0, row_stride = 0;
};

/// Attention forward on E4M3 codes: the contract of kernel/attention.h (e4m3 entries) for all heads of a batch at once.
///   Shapes    q, k codes [B,H,slots,D]; v codes [B,H,segments,D,32]; q_scale, k_scale [B,H,slots]; v_scale [B,H,D];
///             row_of_slot [query slots]; lse, row_max [B,H,L], raster order, or null
///   Layout    slots and segments: tiling/segments.h; the 32 values of a segment and channel in the order of
///             value_place(). The maps are those of attention_maps()
///   Requires  items of all heads and batches fewer than 2^31; slots without a token: codes 0, scales finite. Without
///   column scales, k_scale is constant in a segment Numerics  as the contract, with m = the running ceil(max S2); E4M3
///   products add up in the tensor core over
///             fold_every blocks of keys, then in F32. The `exact` instantiations write the exact output of the
///             contract to out, with P as the sum of two E4M3 codes, 8 bits in all
///   Threads   deterministic: a row's bits do not depend on the number of blocks of the launch
struct AttentionFwdParams {
  ptx::TensorMap q, k, v;
  const float *q_scale = nullptr, *k_scale = nullptr, *v_scale = nullptr;
  const WorkItem* items = nullptr;
  const int32_t* entries = nullptr;
  const int32_t* row_of_slot = nullptr;  // raster row, -1 for none
  int32_t item_count = 0;                // of WorkList::items
  int32_t batch = 0, heads = 0;
  int32_t query_segments = 0, key_segments = 0;  // of one head
  int64_t queries = 0;                           // L
  bool shared_mask = true;
  float log2_factor = 0;  // log2(e) softmax_scale
  OutView out;
  float *lse = nullptr, *row_max = nullptr;
};

/// How the kernel copies codes: segments of q and k as rows of one swizzle, a segment of v as D rows of 32 bytes.
struct AttentionMaps {
  ptx::TensorMapSpec q, k, v;
};
/// The maps of codes of `jobs` = batch x heads.
inline AttentionMaps attention_maps(const void* q, const void* k, const void* v, int dim, int64_t jobs,
                                    int64_t query_segments, int64_t key_segments) {
  const auto d = static_cast<uint64_t>(dim);
  const ptx::Swizzle swizzle = dim == 128 ? ptx::Swizzle::k128 : ptx::Swizzle::k64;
  const auto rows = [&](const void* data, int64_t segments) {
    return ptx::TensorMapSpec{data,   2,
                              1,      {d, static_cast<uint64_t>(jobs * segments) * kSegment},
                              {1, d}, {static_cast<uint32_t>(dim), kSegment},
                              swizzle};
  };
  return {rows(q, query_segments),
          rows(k, key_segments),
          {v,
           3,
           1,
           {kSegment, d, static_cast<uint64_t>(jobs * key_segments)},
           {1, kSegment, kSegment * d},
           {kSegment, static_cast<uint32_t>(dim), 1},
           ptx::Swizzle::k32}};
}

}  // namespace fpsa::kernel::cuda::inline FPSA_TARGET
