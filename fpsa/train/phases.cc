#include "fpsa/train/phases.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "fpsa/base/check.h"
#include "fpsa/diffusion/unipc_levels.h"

namespace fpsa::train {
namespace {

constexpr double kSigmaTolerance = 1e-6;

// Full for the first stretch, one tile less in each of the following, the target at the end.
int64_t widened(int64_t window, int64_t tiles, double progress) {
  if (window >= tiles) return window;
  return window + static_cast<int64_t>(std::ceil(static_cast<double>(tiles - window) * (1.0 - progress)));
}

}  // namespace

StepLevels::StepLevels(double shift, int64_t steps) {
  for (const double level : diffusion::unipc_levels(shift, steps))
    levels_.push_back(static_cast<float>(level));
}

int64_t StepLevels::step_of(double sigma) const {
  FPSA_CHECK(sigma >= 0.0 && sigma <= 1.0, "sigma = ", sigma, ": expected [0, 1]");
  const auto below =
      std::ranges::partition_point(levels_, [&](float level) { return level >= sigma - kSigmaTolerance; });
  return std::max<int64_t>(0, below - levels_.begin() - 1);
}

std::vector<PhaseGroup> group_by_phase(const schedule::Schedule& schedule, const StepLevels& levels,
                                       std::span<const float> sigmas) {
  std::map<int, PhaseGroup> groups;
  for (size_t i = 0; i < sigmas.size(); ++i) {
    const int64_t step = levels.step_of(sigmas[i]);
    PhaseGroup& group = groups[schedule::phase_at(schedule, step, levels.steps())];
    group.step = step;
    group.samples.push_back(static_cast<int64_t>(i));
  }
  std::vector<PhaseGroup> out;
  for (auto& [phase, group] : groups)
    out.push_back(std::move(group));
  return out;
}

schedule::Schedule with_density(schedule::Schedule schedule, const pattern::Grid& grid, double progress) {
  if (progress >= 1.0) return schedule;
  const pattern::Grid tiles = pattern::tiles_per_axis(grid, schedule.tile);
  const auto widen = [&](pattern::Grid& window) {
    window = {widened(window.t, tiles.t, progress), widened(window.y, tiles.y, progress),
              widened(window.x, tiles.x, progress)};
  };
  for (auto& phase : schedule.phases)
    widen(phase.window);
  for (auto& change : schedule.overrides)
    if (change.window) widen(*change.window);
  return schedule;
}

}  // namespace fpsa::train
