// Radial pattern: the spatial neighbourhood that a query sees shrinks with the distance in time.
#pragma once

#include <cstdint>

#include "fpsa/pattern/mask.h"

namespace fpsa::pattern {

struct RadialOptions {
  double decay = 0.2;      // factor on the band; the published setting for Wan
  int64_t min_band = 128;  // tokens; bands never get narrower, distant frames are skipped instead
};

/// Radial attention (after Radial Attention, arXiv 2506.19852), decided per tile pair.
///
/// Between tokens: with frames i, j at distance d = |i - j|, S tokens per frame and
/// b(d) = 2^bit_length(S) / 2^bit_length(d), frame pairs with d <= 1 and the first key frame are fully visible.
/// Any other pair is dropped if b(d) < min_band and d is not a multiple of floor(min_band / b(d)); otherwise
/// tokens p, q (raster index inside the frame) see each other if |p - q| <= max(b(d) * decay, min_band).
///
/// A tile pair is kept if more than 60% of the key tokens that any of its queries sees are seen by more than a
/// third of its queries. Ours: a tile always sees itself and every tile that holds frame 0, so no row is empty.
///   Numerics  integer decisions on token counts; the same mask on every machine
///   Errors    decay outside (0, 1], min_band below 1, a tile so small that all pairs exceed kMaxMaskEntries
BlockMask radial(const Grid& grid, const Grid& tile, const RadialOptions& options = {});

}  // namespace fpsa::pattern
