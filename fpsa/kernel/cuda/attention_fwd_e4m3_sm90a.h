// What one launch of attention_fwd_e4m3_sm90a takes.
#pragma once

#include <cstdint>

#include "fpsa/kernel/cuda/attention_params.h"
#include "fpsa/kernel/cuda/tiling/attention_tiling.h"

namespace fpsa::kernel::cuda::inline FPSA_TARGET {

/// Attention forward on E4M3 codes: the contract of kernel/attention.h (e4m3 entries) for all heads of a batch at once.
///   Shapes    q, k codes [B,H,slots,D]; v codes [B,H,segments,D,32]; q_scale, k_scale [B,H,slots]; v_scale [B,H,D]
///   Layout    the 32 values of a segment and channel in the order of value_place(). The maps are those of
///             attention_maps()
///   Requires  slots without a token: codes 0, scales finite. Without column scales, k_scale is constant in a segment
///   Numerics  as the contract, with m = the running ceil(max S2); E4M3 products add up in the tensor core over
///             fold_every blocks of keys, then in F32. The `exact` instantiations write the exact output of the
///             contract to out, with P as the sum of two E4M3 codes, 8 bits in all
///   Threads   deterministic: a row's bits do not depend on the number of blocks of the launch
struct AttentionFwdParams : AttentionParams {
  const float *q_scale = nullptr, *k_scale = nullptr, *v_scale = nullptr;
};

/// The maps of codes of `jobs` = batch x heads: segments of q and k as rows of one swizzle, a segment of v as D rows of
/// 32 bytes.
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
