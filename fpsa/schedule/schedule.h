// Which granularity, window and precision attention uses at each denoising step.
//
// A schedule cuts the steps into phases and may override settings per layer, head and phase. It is one TOML text
// that training, inference and calibration share; a checkpoint carries it as metadata `fpsa.schedule`.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "fpsa/pattern/grid.h"

namespace fpsa::schedule {

using pattern::Grid;

/// Precision of the two products of attention.
enum class Quant {
  kNone,  // the activations' own dtype
  kE4m3,  // Q, K, P and V in E4M3 with the project's scales
  kInt8,  // likewise in INT8, the keys less their mean: the faster one on CPUs with a byte dot product
};
inline constexpr Quant kQuants[] = {Quant::kNone, Quant::kE4m3, Quant::kInt8};
/// "none", "e4m3", "int8".
std::string_view name(Quant quant);

/// Settings for the steps with f < until (and f >= the previous phase's until).
struct Phase {
  double until = 1.0;                  // fraction of the steps, in (0, 1]; the last phase has 1
  Grid granularity;                    // tokens that share one Q or K scale; per axis a multiple or divisor of the tile
  Grid window = pattern::kFullWindow;  // in tiles; kAllTiles on an axis = all of it
  Quant quant = Quant::kE4m3;
  bool operator==(const Phase&) const = default;
};

/// A closed range of indices from 0.
struct IndexRange {
  int64_t first = 0, last = 0;
  bool operator==(const IndexRange&) const = default;
};

/// Replaces the given settings where all three selectors match; an empty selector matches everything.
/// Later overrides win over earlier ones, field by field. A window is a setting of "sta": without a pattern beside
/// it, it also undoes an earlier override's pattern.
struct Override {
  std::vector<IndexRange> layers, heads;
  std::vector<IndexRange> phases;      // indices into Schedule::phases, from 0 (the TOML text counts phases from 1)
  std::optional<std::string> pattern;  // a name of pattern/registry.h
  std::optional<Grid> granularity, window;
  std::optional<Quant> quant;
  bool operator==(const Override&) const = default;
};

inline constexpr int kVersion = 1;
inline constexpr std::string_view kMetadataKey = "fpsa.schedule";  // in exported safetensors

struct Schedule {
  int version = kVersion;
  Grid tile = {6, 8, 8};
  double shift = 5.0;  // flow shift that training assumes when it maps sigma to a phase
  Quant feed_forward = Quant::kNone;  // of the linear layers after attention, at every step; kNone or kE4m3
  std::vector<Phase> phases;
  std::vector<Override> overrides;
  bool operator==(const Schedule&) const = default;
};

/// What one layer and head does at one step.
struct Setting {
  Grid granularity, window;
  Quant quant = Quant::kNone;
  std::string pattern = "sta";  // "sta" unless an override says otherwise
  int phase = 0;                // index into Schedule::phases
  int override_index = -1;      // the last override that applied, or -1
  bool operator==(const Setting&) const = default;
};

/// Three phases after FPSAttention: coarse and sparse, then fine and dense, then in between. The paper states
/// the tile (6,8,8), the window (6,6,1), the order of the phases and shift 5; it does not state the phase
/// borders or the other granularities and windows. Those are ours: borders 0.2 and 0.6, granularities
/// (24,32,32), (6,8,8), (12,16,16), windows all and (6,6,3).
Schedule default_schedule();

/// Checks everything that does not depend on a grid or model.
///   Errors    the first violation: key, received value, expected range
void validate(const Schedule& schedule);

/// Checks that the schedule can run on this grid: sizes in range and masks of a sane size. A tile or window
/// larger than the grid is legal.
void check_for_grid(const Schedule& schedule, const Grid& grid);

/// Checks that every override names layers and heads that the model has.
void check_for_model(const Schedule& schedule, int64_t layers, int64_t heads);

/// Returns the phase of step `step` of `steps`, from 0: the first with f < until, f = step / steps. Borders are
/// exact but for F64 rounding: 1e-12.
///   Errors    steps < 1 or step outside [0, steps)
int phase_at(const Schedule& schedule, int64_t step, int64_t steps);

/// Names the phases and axes along which no layer and head sees past a tile, of those with several: "phase 2 along t".
/// Nothing passes between such tiles, though single attention outputs may be close to dense ones.
///   Edges     only windows of "sta" are looked at; a layer with another pattern is taken to connect everything
std::vector<std::string> cut_axes(const Schedule& schedule, const Grid& grid, int64_t layers, int64_t heads);

/// Returns the setting of one layer and head in a phase, overrides applied. Layers and heads count from 0.
Setting setting_in_phase(const Schedule& schedule, int phase, int64_t layer, int64_t head);

/// setting_in_phase at phase_at(step, steps).
Setting setting_for(const Schedule& schedule, int64_t step, int64_t steps, int64_t layer, int64_t head);

/// Reads a schedule. Keys: version, tile, shift, feed_forward; [[phase]] until, granularity, window, quant; [[override]] layers,
/// heads, phases, pattern, granularity, window, quant. Triples are [t, y, x]. A window, or one of its axes, may be
/// "all". Selectors are arrays of indices and "first-last" ranges; layers and heads count from 0, phases from 1.
///   Edges     version and at least one [[phase]] are required, in a phase all four keys; tile, shift and feed_forward
///             have defaults (6,8,8), 5 and "none"
///   Errors    syntax, unknown or repeated key, wrong type, value out of range: "origin:line: key: what"
Schedule parse_toml(std::string_view text, std::string_view origin);

/// Writes a schedule such that parse_toml(to_toml(s)) == s.
std::string to_toml(const Schedule& schedule);

}  // namespace fpsa::schedule
