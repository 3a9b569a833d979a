// Schedules by their TOML text, which is how an operator receives one, and plans by a mask of the caller's.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "fpsa/ops/plan.h"
#include "fpsa/schedule/schedule.h"

namespace fpsa::accel {

/// The schedule of a text, parsed when it is first seen; the most recent ones are kept.
///   Threads   safe, also in a child that was forked while another thread was inside
///   Errors    as schedule::parse_toml, origin "schedule"
std::shared_ptr<const schedule::Schedule> schedule_of(std::string_view text);

/// The plan of a mask in CSR form (pattern/mask.h); the most recent ones are kept.
///   Shapes    row_begin [masks * tiles + 1], masks 1 or the number of heads; col one entry for each visible tile
///   Errors    those of pattern::from_csr; a row_begin of another length
std::shared_ptr<const ops::Plan> plan_of_mask(const pattern::Grid& grid, const pattern::Grid& tile,
                                              const pattern::Grid& granularity, std::vector<int32_t> row_begin,
                                              std::vector<int32_t> col);

}  // namespace fpsa::accel
