// One attention by a plan.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "fpsa/plan/attention_plan.h"
#include "fpsa/plan/parallel.h"
#include "fpsa/plan/strided.h"

namespace fpsa::plan {

/// Where the result goes.
struct Output {
  Target out;                // [B,H,Lq,D] of the plan's dtype, raster order
  float* lse = nullptr;      // [B,H,Lq] contiguous, natural log, raster order; or null
  float* row_max = nullptr;  // likewise, integers in log2 units; or null
  Target exact = {};         // as out, with unrounded P; for the backward, or null
};

/// Q, K, V of the plan's dtype, raster order.
struct Inputs {
  Source q, k, v;
};

/// Q, K, V quantised before, in tile order; real = code x scale.
struct Codes {
  Source q, k, v;                  // uint8_t, or int8_t for INT8
  const float* q_scale = nullptr;  // [B,H,Lq] contiguous, by position in tile order
  const float* k_scale = nullptr;  // [B,H,Lk], likewise
  const float* v_scale = nullptr;  // [B,H,D]
};

/// out = softmax(softmax_scale q k^T over the plan's visible keys) v.
///   Shapes    q, out [B,H,Lq,D]; k, v [B,H,Lk,D]; B = batch, 0 or more, as AttentionPlan::jobs() bounds it
///   Layout    data aligned to its element; workspace kWorkspaceAlignment-aligned, of plan.workspace_bytes(batch,
///   workers) bytes or more, where
///             workers is the runner's number or fewer: as many are used as it has room for
///   Requires  no output overlaps an input, another output or the workspace. Of this only an `out` that begins where an
///             input does is detected
///   Edges     kernel/attention.h
///   Numerics  kernel/attention.h and kernel/quantize.h
///   Threads   on the runner; nothing is allocated. The bytes do not depend on the number of workers. One plan may run
///             on many threads, each with its own workspace
///   Errors    fpsa::Error: a missing pointer, `out` equal to an input, a batch as for jobs(), `exact` of an INT8 plan,
///             a softmax_scale that is not finite, a workspace that is misaligned or too small for one worker
void run(const AttentionPlan& plan, int64_t batch, const Inputs& inputs, float softmax_scale, const Output& output,
         std::span<std::byte> workspace, ParallelRunner& runner);

/// The same from codes: nothing is quantised, and the bytes are those of run() on what the codes came from.
///   Requires  the plan's precision is that of the codes, without smooth_keys: codes of smoothed keys give an LSE that
///             lacks kernel::lse_shift
void run_codes(const AttentionPlan& plan, int64_t batch, const Codes& codes, float softmax_scale, const Output& output,
               std::span<std::byte> workspace, ParallelRunner& runner);

}  // namespace fpsa::plan
