// Contract of attention backward over one head, for every implementation in reference/ and cpu/.
//
// Five products, each once: S and dP are recomputed for one block of keys against every query that sees it, dK and dV
// of the block are finished on the spot, and dQ is summed over blocks in F32. Whoever wants several threads on one
// head cuts its blocks of keys into shares, gives each share its own sum of dQ, and adds the sums up in finish(); a
// second pass for dQ, which needs no such sums, would take seven products.
#pragma once

#include <cstdint>

#include "fpsa/kernel/attention.h"

namespace fpsa::kernel {

/// What the forward of one (batch, head) read and wrote, and the gradient that came back.
struct AttentionBwdHead {
  AttentionHead forward;            // exactly what the forward was given
  RowsView out;                     // of out_dtype: the forward's output; its `exact` output for e4m3
  RowsView d_out;                   // of d_out_dtype: the gradient of the output
  Dtype out_dtype = Dtype::kF32;    // kF32 or kBf16
  Dtype d_out_dtype = Dtype::kF32;  // likewise
  const float* lse = nullptr;       // [queries], at the index of out, as the forward wrote it
  const float* row_max = nullptr;   // likewise; e4m3 only
};

/// Where the gradients of one (batch, head) go. Rows are written at (index ? index[i] : i).
struct AttentionGrads {
  void *d_q = nullptr, *d_k = nullptr, *d_v = nullptr;
  int64_t q_stride = 0, k_stride = 0, v_stride = 0;  // in elements
  Dtype dtype = Dtype::kF32;                         // kF32 or kBf16, all three
  const int32_t *q_index = nullptr, *k_index = nullptr;
};

/// Sums of dQ over shares of the blocks of keys: share s begins at byte s * stride of data.
struct DqSums {
  void* data = nullptr;
  int64_t stride = 0;
  int32_t count = 0;
};

/// Attention backward: with P = softmax(softmax_scale q k^T over the visible keys) and D_i = d_out_i . out_i,
///   d_v = P^T d_out,  dS = P o (d_out v^T - D),  d_q = softmax_scale dS k,  d_k = softmax_scale dS^T q.
///   Shapes    q, out, d_out, d_q [queries,D]; k, v, d_k, d_v [keys,D]; lse, row_max [queries]; D a multiple of 8,
///             8 to 256
///   Layout    rows by position through RowsView; packed, sums and scratch 64-byte aligned
///   Units     those of the forward. Gradients of e4m3 entries are with respect to the real values code x scale:
///             straight through the casts they are those of the unquantised inputs
///   Requires  pack() of all queries before run(); sums zeroed before the first run() of a share; run() of every
///             block before finish(). No output overlaps an input. Blocks are those of the transposed visibility:
///             rows are keys, ranges are queries, every key is in one block
///   Edges     a query without a visible key: d_q 0. A key that no query sees: d_k and d_v 0. A pair that is not
///             visible takes no part, whatever it holds, if it is finite
///   Numerics  P = 2^(S2 - lse log2(e)); in e4m3 entries P = 2^(S2 - row_max) / row sum, the row sum from lse, and
///             d_v has the code of the forward, E4M3(256 2^(S2 - row_max)), in its place, while dS has P unrounded.
///             The codes are those of the forward entry of the same dtype and ISA, bit for bit. bf16 and e4m3 entries
///             may round P, dS and d_out to BF16 once before a product; f32 entries round nothing. Accumulators F32
///             (reference: F64). Tolerances: kAttentionF32 times the bound of each element, kAttentionBwdRms
///   Threads   run() writes the rows of its block, the sums of its share and its scratch; finish() the rows of its
///             range. The bits depend on how blocks are dealt to shares and on their order in a share, not on threads
///   Errors    checked by ops; kernels are noexcept
struct AttentionBwd {
  /// Bytes of the packed queries and output gradients of one head.
  int64_t (*packed_bytes)(int64_t queries, int64_t dim) noexcept;
  /// Packs queries [begin, end); begin is a multiple of 64, end too unless it is the number of queries.
  void (*pack)(const AttentionBwdHead& head, int64_t begin, int64_t end, void* packed) noexcept;
  /// Bytes of one share's sum of dQ.
  int64_t (*sum_bytes)(int64_t queries, int64_t dim) noexcept;
  /// Bytes of scratch for one run() at a time.
  int64_t (*scratch_bytes)(int64_t dim) noexcept;
  /// Finishes d_k and d_v of the block's keys and adds what they give to dQ.
  void (*run)(const AttentionBwdHead& head, const void* packed, const QueryBlock& block, const AttentionGrads& grads,
              void* sum, void* scratch) noexcept;
  /// Adds up the shares in order and writes d_q of queries [begin, end).
  void (*finish)(const AttentionBwdHead& head, const DqSums& sums, int64_t begin, int64_t end,
                 const AttentionGrads& grads) noexcept;
};

}  // namespace fpsa::kernel
