// What one launch of attention_fwd_bf16_sm90a takes.
#pragma once

#include <cstdint>

#include "fpsa/kernel/cuda/attention_params.h"
#include "fpsa/kernel/cuda/tiling/attention_tiling.h"

namespace fpsa::kernel::cuda::inline FPSA_TARGET {

inline constexpr int kHalfRow = 64;  // 16-bit elements of one row of the swizzle

/// Attention forward on BF16 or F16: the contract of kernel/attention.h (bf16 entries) for all heads of a batch at
/// once, by AttentionParams with these maps.
///   Shapes    q, k, v [B,H,slots,D] BF16, or all F16, as pack_bf16_sm90a writes them
///   Requires  slots without a token: zeros; softmax_scale > 0
///   Numerics  as the contract, with m = the running ceil(max S2) and P rounded to the inputs' type (F16: below
///             2^-14 of 1 to multiples of 2^-24); both products add up in F32 in
///             the tensor core
///   Threads   deterministic: a row's bits do not depend on the number of blocks of the launch
/// The kernel copies boxes of one segment and 64 channels.
inline AttentionMaps attention_bf16_maps(const void* q, const void* k, const void* v, int dim, int64_t jobs,
                                         int64_t query_segments, int64_t key_segments) {
  const auto d = static_cast<uint64_t>(dim);
  const auto rows = [&](const void* data, int64_t segments) {
    return ptx::TensorMapSpec{data,
                              2,
                              2,
                              {d, static_cast<uint64_t>(jobs * segments) * kSegment},
                              {2, 2 * d},
                              {kHalfRow, kSegment},
                              ptx::Swizzle::k128};
  };
  return {rows(q, query_segments), rows(k, key_segments), rows(v, key_segments)};
}

}  // namespace fpsa::kernel::cuda::inline FPSA_TARGET
