// Three-dimensional rotary position embedding: which angle turns which pair of a query or key. Applied in dit_fused.
//
// A head's D values are D/2 pairs; the first pairs turn with the token's frame, the next with its row, the last
// with its column. Row and column get 2*(D/6) values each, the frame the rest. Angles are position / 10000^(2i/d)
// within each part, computed in F64 because positions times frequencies lose digits in F32.
#pragma once

#include <ATen/ATen.h>

#include <array>

#include "fpsa/pattern/grid.h"

namespace fpsa::models::wan {

/// Factors on the positions along each axis: a training stage on a small grid can cover the positions of the final
/// one. 1 everywhere is the model's own embedding.
struct RopeStretch {
  double t = 1.0, y = 1.0, x = 1.0;
  bool operator==(const RopeStretch&) const = default;
};

/// Values of a head of size `head_dim` that turn with (T, Y, X); their sum is head_dim and each is even.
std::array<int64_t, 3> rope_split(int64_t head_dim);

/// Unit complex numbers cos + i sin of every token's pairs, in raster order.
///   Shapes    out [L, 1, D/2] complex; L = grid.volume()
///   Numerics  computed in F64, rounded once to complex64 (`wide` F32) or kept as complex128 (`wide` F64)
at::Tensor rope_table(pattern::Grid grid, int64_t head_dim, const RopeStretch& stretch, at::ScalarType wide);

}  // namespace fpsa::models::wan
