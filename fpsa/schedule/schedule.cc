#include "fpsa/schedule/schedule.h"

#include <algorithm>
#include <tuple>

#include "fpsa/base/check.h"
#include "fpsa/pattern/mask.h"
#include "fpsa/schedule/violation.h"

namespace fpsa::schedule {
namespace {

// How far below a phase's border f = step / steps may lie and still count as having reached it: rounding in F64, of
// borders that were computed (0.1 + 0.05) too.
constexpr double kStepTolerance = 1e-12;

bool selects(const std::vector<IndexRange>& ranges, int64_t index) {
  return ranges.empty() ||
         std::ranges::any_of(ranges, [&](const IndexRange& r) { return r.first <= index && index <= r.last; });
}

// Visible tile pairs of one window on a grid of n tiles per axis, and whether a mask can hold them.
void check_pairs(const Grid& n, const Grid& window, const std::string& key) {
  const int64_t tiles = n.volume();
  const int64_t per_row = std::min(n.t, window.t) * std::min(n.y, window.y) * std::min(n.x, window.x);
  FPSA_CHECK(per_row <= pattern::kMaxMaskEntries / tiles, "schedule: ", key, ": ", tiles, " tiles that see ", per_row,
             " each are more than ", pattern::kMaxMaskEntries, " pairs; use a larger tile");
}

void check_indices(const std::vector<IndexRange>& ranges, int64_t count, const char* what, size_t override_number) {
  for (const IndexRange& r : ranges) {
    FPSA_CHECK(r.last < count, "schedule: override ", override_number, " ", what, "s: ", what, " ", r.last,
               " does not exist; the model has ", what, "s 0 to ", count - 1);
  }
}

}  // namespace

std::string_view name(Quant quant) {
  switch (quant) {
    case Quant::kNone:
      return "none";
    case Quant::kE4m3:
      return "e4m3";
    case Quant::kInt8:
      return "int8";
  }
  return "unknown";
}

Schedule default_schedule() {
  using pattern::kAllTiles;
  Schedule s;
  s.tile = {6, 8, 8};  // stated by the paper
  s.shift = 5.0;       // stated
  s.phases = {
      // Coarse and sparse. Window stated; border and granularity ours.
      {0.2, {24, 32, 32}, {6, 6, 1}, Quant::kE4m3},
      // Fine and dense, where error matters most. Border, granularity and window ours.
      {0.6, {6, 8, 8}, {kAllTiles, kAllTiles, kAllTiles}, Quant::kE4m3},
      // In between. Granularity and window ours.
      {1.0, {12, 16, 16}, {6, 6, 3}, Quant::kE4m3},
  };
  return s;
}

void validate(const Schedule& schedule) {
  if (const auto found = find_violation(schedule)) throw Error(join("schedule: ", found->key, ": ", found->message));
}

void check_for_grid(const Schedule& schedule, const Grid& grid) {
  validate(schedule);
  const Grid n = pattern::tiles_per_axis(grid, schedule.tile);
  for (size_t i = 0; i < schedule.phases.size(); ++i) {
    check_pairs(n, schedule.phases[i].window, join("phase ", i + 1));
  }
  for (size_t i = 0; i < schedule.overrides.size(); ++i) {
    const Override& o = schedule.overrides[i];
    if (o.pattern && *o.pattern != "sta") check_pairs(n, pattern::kFullWindow, join("override ", i + 1));
    if (o.window) check_pairs(n, *o.window, join("override ", i + 1));
  }
}

void check_for_model(const Schedule& schedule, int64_t layers, int64_t heads) {
  for (size_t i = 0; i < schedule.overrides.size(); ++i) {
    check_indices(schedule.overrides[i].layers, layers, "layer", i + 1);
    check_indices(schedule.overrides[i].heads, heads, "head", i + 1);
  }
}

int phase_at(const Schedule& schedule, int64_t step, int64_t steps) {
  FPSA_CHECK(steps >= 1, "steps = ", steps, ": expected at least 1");
  FPSA_CHECK(step >= 0 && step < steps, "step = ", step, ": expected [0, ", steps, ")");
  const auto& phases = schedule.phases;
  FPSA_CHECK(!phases.empty(), "schedule: expected at least one phase, received none");
  const double f = static_cast<double>(step) / static_cast<double>(steps);
  size_t i = 0;
  while (i + 1 < phases.size() && f >= phases[i].until - kStepTolerance)
    ++i;
  return static_cast<int>(i);
}

Setting setting_in_phase(const Schedule& schedule, int phase, int64_t layer, int64_t head) {
  FPSA_CHECK(phase >= 0 && phase < static_cast<int>(schedule.phases.size()), "phase = ", phase, ": expected [0, ",
             schedule.phases.size(), ")");
  const Phase& base = schedule.phases[static_cast<size_t>(phase)];
  Setting setting{.granularity = base.granularity, .window = base.window, .quant = base.quant, .phase = phase};
  for (size_t i = 0; i < schedule.overrides.size(); ++i) {
    const Override& o = schedule.overrides[i];
    if (!selects(o.layers, layer) || !selects(o.heads, head) || !selects(o.phases, phase)) continue;
    if (o.pattern)
      setting.pattern = *o.pattern;
    else if (o.window)
      setting.pattern = "sta";  // no other pattern has a window
    if (o.granularity) setting.granularity = *o.granularity;
    if (o.window) setting.window = *o.window;
    if (o.quant) setting.quant = *o.quant;
    setting.override_index = static_cast<int>(i);
  }
  return setting;
}

std::vector<std::string> cut_axes(const Schedule& schedule, const Grid& grid, int64_t layers, int64_t heads) {
  const Grid tiles = pattern::tiles_per_axis(grid, schedule.tile);
  const std::tuple<const char*, int64_t, int64_t Grid::*> axes[] = {
      {"t", tiles.t, &Grid::t}, {"y", tiles.y, &Grid::y}, {"x", tiles.x, &Grid::x}};
  std::vector<std::string> cut;
  for (int phase = 0; phase < static_cast<int>(schedule.phases.size()); ++phase)
    for (const auto& [name, count, axis] : axes) {
      bool passes = count == 1;
      for (int64_t layer = 0; layer < layers && !passes; ++layer)
        for (int64_t head = 0; head < heads && !passes; ++head) {
          const Setting setting = setting_in_phase(schedule, phase, layer, head);
          passes = setting.pattern != "sta" || setting.window.*axis == pattern::kAllTiles || setting.window.*axis > 1;
        }
      if (!passes) cut.push_back(join("phase ", phase + 1, " along ", name));
    }
  return cut;
}

Setting setting_for(const Schedule& schedule, int64_t step, int64_t steps, int64_t layer, int64_t head) {
  return setting_in_phase(schedule, phase_at(schedule, step, steps), layer, head);
}

}  // namespace fpsa::schedule
