// Patterns by name. A new pattern is one function Grid x parameters -> BlockMask and one line here; the property
// tests and the schedule's `pattern` key find it.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "fpsa/pattern/mask.h"
#include "fpsa/pattern/radial.h"

namespace fpsa::pattern {

/// The parameters of every pattern; each reads what it needs.
struct PatternParams {
  Grid window = kFullWindow;  // in tiles
  RadialOptions radial;
};

struct PatternEntry {
  std::string_view name;
  std::string_view summary;  // one line for help texts
  BlockMask (*make)(const Grid& grid, const Grid& tile, const PatternParams& params);
};

/// All patterns, dense first.
std::span<const PatternEntry> patterns();

/// Whether a pattern of this name exists, and their names joined by ", ".
bool is_pattern(std::string_view name);
std::string pattern_names();

/// Returns the mask of the named pattern.
///   Errors    an unknown name (the message lists the known ones); those of the pattern
BlockMask make_pattern(std::string_view name, const Grid& grid, const Grid& tile, const PatternParams& params);

}  // namespace fpsa::pattern
