// What one launch of attention_bwd_bf16_sm90a takes.
#pragma once

#include <cstdint>

#include "fpsa/kernel/cuda/attention_params.h"
#include "fpsa/kernel/cuda/tiling/attention_bwd_tiling.h"

namespace fpsa::kernel::cuda::inline FPSA_TARGET {

/// Attention backward: the contract of kernel/attention_bwd.h for all heads of a batch at once, in two launches, one
/// with the list of the mask (dQ), one with that of the transposed mask (dK and dV).
///   Shapes    q, k, v, d_out BF16 [B,H,slots,D]; q_codes, k_codes [B,H,slots,D] with codes; statistics
///             [B,H,query segments, bwd_statistics(), 32]; k_scale [B,H,slots], v_scale [B,H,D] with codes; gradients
///             [B,H,L,D], raster order
///   Layout    slots and segments: tiling/segments.h; q_codes, k_codes, k_scale as the forward had them. d_out and
///             statistics are what attention_bwd_prepare makes. The maps are those of attention_bwd_maps()
///   Units     without codes q, k, v are the values; with codes they are the codes as BF16 (attention_bwd_expand),
///             which is exact. Without codes all of q, k, v and d_out may be F16 instead
///   Requires  items of all heads and batches fewer than 2^31; slots without a token: zeros; scales positive
///   Numerics  as the contract. Without codes S2 = dot * (log2(e) softmax_scale). With codes S comes from the FP8
///             products of the forward, S2 = dot * ((log2(e) softmax_scale q_scale) k_scale), P of dV is its code. P
///             (without codes) and dS are rounded to BF16 (F16) once, as is d_out, whose rounded values D is made of
///             too
///   Threads   deterministic: a row's bits do not depend on the number of blocks of the launch
struct AttentionBwdParams {
  ptx::TensorMap q, k, v, d_out, q_codes, k_codes;
  const float* statistics = nullptr;
  const float *k_scale = nullptr, *v_scale = nullptr;
  const WorkItem* items = nullptr;  // of the list whose rows are the launch's
  const int32_t* entries = nullptr;
  const int32_t* row_of_slot = nullptr;  // of the launch's rows: raster row, -1 for none
  int32_t item_count = 0;
  int32_t batch = 0, heads = 0;
  int32_t query_segments = 0, key_segments = 0;  // of one head
  bool shared_mask = true;
  float log2_factor = 0;    // log2(e) softmax_scale
  float softmax_scale = 0;  // of d_q and d_k
  OutView first, second;    // d_q, or d_k and d_v
};

/// Rows that attention_bwd_prepare reads: [B,H,L,D], raster order, of any type, as OutView otherwise.
struct InView {
  const void* data = nullptr;
  OutType type = OutType::kBf16;
  int64_t batch_stride = 0, head_stride = 0, row_stride = 0;
  FPSA_BOTH int64_t at(int batch, int head, int row) const {
    return batch * batch_stride + head * head_stride + row * row_stride;
  }
};

/// Makes d_out by slots and the statistics of the queries.
///   Shapes    out, d_out [B,H,L,D]; lse, row_max [B,H,L], raster order; q_scale [B,H,slots]; v_scale [B,H,D];
///             row_of_slot [slots]; packed BF16 or F16 [B,H,slots,D]; statistics [B,H,segments, bwd_statistics(), 32]
///   Units     packed = d_out; with codes d_out * v_scale / (256 row sum), which saves both factors in every pair
///   Edges     a slot without a token, or whose row sees no key: packed 0 (with codes; else d_out), shift +inf, delta 0
struct AttentionBwdPrepareParams {
  InView out, d_out;                                   // out: the exact output with codes
  const float *lse = nullptr, *row_max = nullptr;      // row_max with codes only
  const float *q_scale = nullptr, *v_scale = nullptr;  // with codes only
  const int32_t* row_of_slot = nullptr;
  int32_t batch = 0, heads = 0, segments = 0;
  int64_t queries = 0;
  uint16_t* packed = nullptr;
  float* statistics = nullptr;
};

/// Codes as BF16: q and k [B,H,slots,D] alike, v from [B,H,segments,D,32] to [B,H,slots,D].
struct AttentionBwdExpandParams {
  const uint8_t* codes = nullptr;
  uint16_t* values = nullptr;
  int64_t segments = 0;  // of all heads and batches
  bool of_values = false;
};

/// How the kernel copies its operands, as rows of bytes: 32 rows of 128 bytes, or of D codes.
struct AttentionBwdMaps {
  ptx::TensorMapSpec q, k, v, d_out, q_codes, k_codes;
};
/// The maps of operands of `jobs` = batch x heads; q_codes, k_codes may be null.
inline AttentionBwdMaps attention_bwd_maps(const void* q, const void* k, const void* v, const void* d_out,
                                           const void* q_codes, const void* k_codes, int dim, int64_t jobs,
                                           int64_t query_segments, int64_t key_segments) {
  const auto rows = [&](const void* data, int64_t segments, int bytes) {
    const auto width = static_cast<uint64_t>(bytes);
    const uint32_t box = bytes < 128 ? 64 : 128;
    return ptx::TensorMapSpec{data,
                              2,
                              1,
                              {width, static_cast<uint64_t>(jobs * segments) * kSegment},
                              {1, width},
                              {box, kSegment},
                              box == 128 ? ptx::Swizzle::k128 : ptx::Swizzle::k64};
  };
  return {rows(q, query_segments, 2 * dim),     rows(k, key_segments, 2 * dim),     rows(v, key_segments, 2 * dim),
          rows(d_out, query_segments, 2 * dim), rows(q_codes, query_segments, dim), rows(k_codes, key_segments, dim)};
}

}  // namespace fpsa::kernel::cuda::inline FPSA_TARGET
