// The pre-pass on all threads: from the rows of the projections to the codes that run_codes() takes.
//
// A unit of work is a group of Q and the same group of K: its rows stay in a cache between absmax and codes, and the
// table of turns between Q and K. Where that gives too few units for the workers, all absmax come first, run by run.
// Units are taken in a fixed order from one counter; those that need every absmax, or the mean of the keys, wait for
// them: one fork and join.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "fpsa/kernel/prepass.h"
#include "fpsa/plan/geometry.h"
#include "fpsa/plan/parallel.h"
#include "fpsa/plan/strided.h"

namespace fpsa::plan {

/// One projection: [B, L, heads*dim], raster order.
struct Projection {
  const void* data = nullptr;
  int64_t batch = 0, token = 0;   // strides in elements
  const float* weight = nullptr;  // [heads*dim] of the RMSNorm, or null: none
};

/// The projections of self-attention. V is neither normed nor rotated.
struct Projections {
  Projection q, k, v;
  kernel::Dtype dtype = kernel::Dtype::kF32;  // kF32 or kBf16
  int64_t batch = 0, heads = 0, dim = 0;
  float eps = 0;
  const float* turns = nullptr;  // [L, dim] cos, sin, ..., raster order, or null: no rotation
  bool smooth_keys = false;      // code the keys less their mean (kernel/smoothing.h), which takes a third pass over K
};

/// Where the codes go, contiguous, by position in tile order: what Codes of run.h points at.
struct PrepassOutput {
  uint8_t *q = nullptr, *k = nullptr, *v = nullptr;  // [B,H,L,D]
  float *q_scale = nullptr, *k_scale = nullptr;      // [B,H,L]
  float* v_scale = nullptr;                          // [B,H,D]
};

/// Bytes of the workspace of prepass().
int64_t prepass_workspace_bytes(const Geometry& geometry, int64_t batch, int64_t heads, int64_t dim, bool smooth_keys);

/// Codes and scales of Q, K and V.
///   Layout    workspace aligned for double, of prepass_workspace_bytes() bytes or more
///   Numerics  kernel/prepass.h; exact, so the bytes do not depend on the number of workers
///   Threads   on the runner; nothing is allocated
///   Errors    none: the caller checks
void prepass(const kernel::Prepass& kernel, const Geometry& geometry, const Projections& projections,
             const PrepassOutput& output, std::span<std::byte> workspace, ParallelRunner& runner);

}  // namespace fpsa::plan
