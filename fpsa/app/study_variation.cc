#include "fpsa/app/study_variation.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "fpsa/base/check.h"
#include "fpsa/pattern/mask.h"

namespace fpsa::app {
namespace {

using pattern::Grid;
using pattern::kAllTiles;
using schedule::Schedule;

int64_t nearest_multiple(int64_t value, int64_t unit) {
  return std::max<int64_t>(1, (2 * value + unit) / (2 * unit));
}

// The legal granularity of a tile's axis nearest to `wanted` tokens: whole tiles, or the largest divisor not above it.
int64_t granularity_for(int64_t wanted, int64_t tile) {
  if (wanted >= tile) return nearest_multiple(wanted, tile) * tile;
  int64_t best = 1;
  for (int64_t d = 1; d <= wanted; ++d)
    if (tile % d == 0) best = d;
  return best;
}

Grid granularity_for(const Grid& wanted, const Grid& tile) {
  return {granularity_for(wanted.t, tile.t), granularity_for(wanted.y, tile.y), granularity_for(wanted.x, tile.x)};
}

int64_t window_for(int64_t window, int64_t before, int64_t after) {
  return window == kAllTiles ? kAllTiles : nearest_multiple(window * before, after);
}

Grid window_for(const Grid& window, const Grid& before, const Grid& after) {
  return {window_for(window.t, before.t, after.t), window_for(window.y, before.y, after.y),
          window_for(window.x, before.x, after.x)};
}

// Densities of the windows 1, 2, ... of one axis; the density of a box is the product over its axes.
std::vector<double> axis_densities(int64_t extent, int64_t tile) {
  const Grid grid{extent, 1, 1}, tiles{tile, 1, 1};
  const pattern::TileOrder order(grid, tiles);
  std::vector<double> out;
  for (int64_t w = 1; w <= order.tile_grid().t; ++w)
    out.push_back(pattern::density(pattern::sliding_tile(grid, tiles, {w, 1, 1}), order));
  return out;
}

bool holds_in(const schedule::Override& entry, int64_t phase) {
  return entry.phases.empty() || std::ranges::any_of(entry.phases, [&](const schedule::IndexRange& range) {
           return range.first <= phase && phase <= range.last;
         });
}

}  // namespace

Schedule with_tile(Schedule schedule, const Grid& tile) {
  const Grid before = schedule.tile;
  schedule.tile = tile;
  for (auto& phase : schedule.phases) {
    phase.granularity = granularity_for(phase.granularity, tile);
    phase.window = window_for(phase.window, before, tile);
  }
  for (auto& entry : schedule.overrides) {
    if (entry.granularity) entry.granularity = granularity_for(*entry.granularity, tile);
    if (entry.window) entry.window = window_for(*entry.window, before, tile);
  }
  return schedule;
}

Schedule with_windows(Schedule schedule, const std::function<Grid(const Grid&)>& change) {
  for (auto& phase : schedule.phases)
    phase.window = change(phase.window);
  for (auto& entry : schedule.overrides)
    if (entry.window) entry.window = change(*entry.window);
  return schedule;
}

Schedule with_window(Schedule schedule, const Grid& window) {
  for (auto& entry : schedule.overrides)
    entry.pattern.reset();
  return with_windows(std::move(schedule), [&](const Grid&) { return window; });
}

Schedule with_granularity(Schedule schedule, const Grid& granularity) {
  for (auto& phase : schedule.phases)
    phase.granularity = granularity;
  for (auto& entry : schedule.overrides)
    if (entry.granularity) entry.granularity = granularity;
  return schedule;
}

Schedule with_quant(Schedule schedule, schedule::Quant quant) {
  for (auto& phase : schedule.phases)
    phase.quant = quant;
  for (auto& entry : schedule.overrides)
    if (entry.quant) entry.quant = quant;
  return schedule;
}

Schedule one_phase(const Schedule& schedule, size_t phase) {
  FPSA_CHECK(phase < schedule.phases.size(), "phase: expected 1 to ", schedule.phases.size(), " of this schedule, got ",
             phase + 1);
  Schedule out = schedule;
  out.phases = {schedule.phases[phase]};
  out.phases[0].until = 1.0;
  out.overrides.clear();
  for (auto entry : schedule.overrides) {
    if (!holds_in(entry, static_cast<int64_t>(phase))) continue;
    entry.phases.clear();
    out.overrides.push_back(std::move(entry));
  }
  return out;
}

double window_density(const Grid& grid, const Grid& tile, const Grid& window) {
  const auto axis = [](int64_t extent, int64_t tile_extent, int64_t w) {
    const auto all = axis_densities(extent, tile_extent);
    return all[static_cast<size_t>(std::min<int64_t>(w, static_cast<int64_t>(all.size())) - 1)];
  };
  return axis(grid.t, tile.t, window.t) * axis(grid.y, tile.y, window.y) * axis(grid.x, tile.x, window.x);
}

Grid window_near_density(const Grid& grid, const Grid& tile, double target) {
  constexpr double kSame = 0.02;
  const std::array<std::vector<double>, 3> axes = {axis_densities(grid.t, tile.t), axis_densities(grid.y, tile.y),
                                                   axis_densities(grid.x, tile.x)};
  struct Choice {
    Grid window;
    double miss, spread;
  };
  std::vector<Choice> choices;
  for (size_t t = 0; t < axes[0].size(); ++t)
    for (size_t y = 0; y < axes[1].size(); ++y)
      for (size_t x = 0; x < axes[2].size(); ++x) {
        const double d[] = {axes[0][t], axes[1][y], axes[2][x]};
        const auto [low, high] = std::minmax_element(std::begin(d), std::end(d));
        choices.push_back({{static_cast<int64_t>(t) + 1, static_cast<int64_t>(y) + 1, static_cast<int64_t>(x) + 1},
                           std::abs(std::log(d[0] * d[1] * d[2] / target)),
                           *high - *low});
      }
  double least = std::numeric_limits<double>::infinity();
  for (const auto& choice : choices)
    least = std::min(least, choice.miss);
  const Choice* best = nullptr;
  for (const auto& choice : choices)
    if (choice.miss <= least + kSame && (best == nullptr || choice.spread < best->spread)) best = &choice;
  return best->window;
}

}  // namespace fpsa::app
