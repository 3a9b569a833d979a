// Quantisation by a geometry into tile order, for callers that want the codes themselves.
#pragma once

#include <cstdint>

#include "fpsa/kernel/table.h"
#include "fpsa/plan/geometry.h"
#include "fpsa/plan/parallel.h"
#include "fpsa/plan/strided.h"

namespace fpsa::plan {

/// A [B,H,L,D] array in raster order, L = the geometry's tokens.
struct QuantizeSource {
  Source x;
  kernel::Dtype dtype = kernel::Dtype::kF32;  // kF32 or kBf16
  int64_t batch = 0, heads = 0, dim = 0;
};

/// One scale per (batch, head, group): Q and K.
///   Shapes    codes [B,H,L,D], scales [B,H,groups], token_scale [B,H,L] or null; contiguous, tile order
///   Numerics  kernel/quantize.h
///   Threads   one (batch, head) per worker at a time; the bytes do not depend on their number
///   Errors    none: the caller checks
void quantize_tokens(const kernel::Quantize& kernel, const Geometry& geometry, const QuantizeSource& source,
                     uint8_t* codes, float* scales, float* token_scale, ParallelRunner& runner);

/// One scale per (batch, head, channel): V. scales [B,H,D]; the rest as above.
void quantize_channels(const kernel::Quantize& kernel, const Geometry& geometry, const QuantizeSource& source,
                       uint8_t* codes, float* scales, ParallelRunner& runner);

}  // namespace fpsa::plan
