// Training in the phases of a schedule: which step of inference a noise level belongs to, the samples of a batch by
// phase, and windows that narrow while training goes on.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "fpsa/schedule/schedule.h"

namespace fpsa::train {

inline constexpr int64_t kDefaultSteps = 50;  // of inference, where training is not told

/// The denoising steps of inference as intervals of noise levels. Step i stands for the levels from its own down to,
/// but without, that of step i + 1: the stretch that its velocity carries the sample over.
///
/// The levels are those of UniPC, which exported folders name, at the schedule's shift, not at the one with which
/// training draws its levels. So a sigma that UniPC visits in a run of `steps` has the phase that it has there. The
/// same holds up to 500 steps for DPM++ and for plain levels, u = 1 - i / steps, and in UniPC's runs of any length for
/// schedules whose borders are multiples of 1 / steps; otherwise a sigma less than 1 / steps of such a run past a
/// border may still be in the earlier phase.
class StepLevels {
 public:
  /// `steps` from 1 to 1000.
  StepLevels(double shift, int64_t steps);

  int64_t steps() const { return static_cast<int64_t>(levels_.size()); }
  /// The step of a sigma in [0, 1]. A sigma within 1e-6 above a level counts as that level: F32 rounding, and UniPC's
  /// first level, which is that much below 1.
  int64_t step_of(double sigma) const;

 private:
  std::vector<float> levels_;  // falling
};

/// Samples of one batch that attend alike.
struct PhaseGroup {
  int64_t step = 0;              // any step of the phase: settings depend on it by the phase alone
  std::vector<int64_t> samples;  // indices into the batch, rising
};

/// Cuts a batch by the phases of its noise levels; groups are in the order of their phases, none is empty.
std::vector<PhaseGroup> group_by_phase(const schedule::Schedule& schedule, const StepLevels& levels,
                                       std::span<const float> sigmas);

/// The schedule with every window wider: the whole grid at progress 0, the schedule's own from progress 1 on, in equal
/// stretches of progress for each tile that an axis loses. Other patterns stay as they are.
schedule::Schedule with_density(schedule::Schedule schedule, const pattern::Grid& grid, double progress);

}  // namespace fpsa::train
