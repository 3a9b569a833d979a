// Variations of a schedule that change one thing: what the ablations of a study are made of. Pure functions.
#pragma once

#include <functional>

#include "fpsa/schedule/schedule.h"

namespace fpsa::app {

/// Another tile. Windows and granularities keep their extent in tokens as nearly as the new tile allows; what covers a
/// whole axis still does.
schedule::Schedule with_tile(schedule::Schedule schedule, const pattern::Grid& tile);

/// Every window replaced, in phases and overrides; other patterns stay.
schedule::Schedule with_windows(schedule::Schedule schedule,
                                const std::function<pattern::Grid(const pattern::Grid&)>& change);

/// One window at every step, layer and head, in place of other patterns too.
schedule::Schedule with_window(schedule::Schedule schedule, const pattern::Grid& window);

/// One granularity at every step, layer and head.
schedule::Schedule with_granularity(schedule::Schedule schedule, const pattern::Grid& granularity);

/// One precision at every step, layer and head, the feed-forward apart.
schedule::Schedule with_quant(schedule::Schedule schedule, schedule::Quant quant);

/// The settings of one phase, from 0, at every step; of the overrides those that hold in it.
///   Requires  phase < schedule.phases.size()
schedule::Schedule one_phase(const schedule::Schedule& schedule, size_t phase);

/// Visible share of all pairs under a sliding window.
double window_density(const pattern::Grid& grid, const pattern::Grid& tile, const pattern::Grid& window);

/// The window whose density is nearest to the target by ratio; of those within 2% of it the most even one, by the
/// share of each axis that it covers.
pattern::Grid window_near_density(const pattern::Grid& grid, const pattern::Grid& tile, double target);

}  // namespace fpsa::app
