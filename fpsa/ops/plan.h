// The plans that operators share: one for each grid, tile, granularity and pattern in use.
#pragma once

#include <memory>
#include <string>

#include "fpsa/plan/geometry.h"

namespace fpsa::ops {

/// Token order, scale groups and blocks of one grid and mask.
using Plan = plan::Geometry;

/// Returns the plan of a named pattern (pattern/registry.h), from a cache of the most recent ones.
///   Units     window in tiles, granularity in tokens
///   Threads   safe
///   Errors    those of Plan and pattern::make_pattern
std::shared_ptr<const Plan> plan_for(const pattern::Grid& grid, const pattern::Grid& tile,
                                     const pattern::Grid& granularity, const std::string& pattern,
                                     const pattern::Grid& window);

}  // namespace fpsa::ops
