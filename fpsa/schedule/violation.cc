#include "fpsa/schedule/violation.h"

#include <cmath>

#include "fpsa/base/check.h"
#include "fpsa/pattern/registry.h"

namespace fpsa::schedule {
namespace {

using Found = std::optional<Violation>;

std::string triple(const Grid& g) {
  return join("[", g.t, ", ", g.y, ", ", g.x, "]");
}

Found check_extents(const std::string& key, const Grid& g, const char* unit) {
  const auto in_range = [](int64_t n) { return n >= 1 && n <= pattern::kAllTiles; };
  if (in_range(g.t) && in_range(g.y) && in_range(g.x)) return {};
  return Violation{key, join("expected every extent to be at least 1 ", unit, ", received ", triple(g))};
}

Found check_granularity(const std::string& key, const Grid& granularity, const Grid& tile) {
  if (Found found = check_extents(key, granularity, "token")) return found;
  try {
    pattern::check_granularity(granularity, tile);
  } catch (const Error& error) {
    return Violation{key, error.what()};
  }
  return {};
}

Found check_phases(const Schedule& s) {
  if (s.phases.empty()) return Violation{"phase", "expected at least one [[phase]], received none"};
  double previous = 0.0;
  for (size_t i = 0; i < s.phases.size(); ++i) {
    const Phase& phase = s.phases[i];
    const std::string where = join("phase ", i + 1, " ");
    // Written so that NaN fails.
    if (!(phase.until > 0.0 && phase.until <= 1.0)) {
      return Violation{where + "until", join("expected a fraction of the steps in (0, 1], received ", phase.until)};
    }
    if (phase.until <= previous) {
      return Violation{where + "until",
                       join("expected more than the previous phase's ", previous, ", received ", phase.until)};
    }
    previous = phase.until;
    if (Found found = check_granularity(where + "granularity", phase.granularity, s.tile)) return found;
    if (Found found = check_extents(where + "window", phase.window, "tile")) return found;
  }
  if (previous != 1.0) {
    return Violation{join("phase ", s.phases.size(), " until"),
                     join("expected 1 in the last phase, received ", previous, "; the phases must cover all steps")};
  }
  return {};
}

Found check_ranges(const std::string& key, const std::vector<IndexRange>& ranges) {
  for (const IndexRange& r : ranges) {
    if (r.first < 0 || r.last < r.first) {
      return Violation{key, join("expected first-last with 0 <= first <= last, received ", r.first, "-", r.last)};
    }
  }
  return {};
}

Found check_override(const Schedule& s, const Override& o, const std::string& where) {
  if (Found found = check_ranges(where + " layers", o.layers)) return found;
  if (Found found = check_ranges(where + " heads", o.heads)) return found;
  for (const IndexRange& r : o.phases) {
    if (r.first < 0 || r.last < r.first || r.last >= static_cast<int64_t>(s.phases.size())) {
      return Violation{where + " phases", join("expected phases from 1 to ", s.phases.size(), ", received ",
                                               r.first + 1, r.first == r.last ? "" : join("-", r.last + 1))};
    }
  }
  if (!o.pattern && !o.granularity && !o.window && !o.quant) {
    return Violation{where, "changes nothing; expected at least one of pattern, granularity, window, quant"};
  }
  if (o.pattern && !pattern::is_pattern(*o.pattern)) {
    return Violation{where + " pattern",
                     join("expected one of ", pattern::pattern_names(), ", received '", *o.pattern, "'")};
  }
  if (o.pattern && *o.pattern != "sta" && o.window) {
    return Violation{where + " window", join("has no effect with pattern '", *o.pattern, "'; remove one of the two")};
  }
  if (o.granularity) {
    if (Found found = check_granularity(where + " granularity", *o.granularity, s.tile)) return found;
  }
  if (o.window) {
    if (Found found = check_extents(where + " window", *o.window, "tile")) return found;
  }
  return {};
}

}  // namespace

std::optional<Violation> find_violation(const Schedule& s) {
  if (s.version != kVersion) {
    return Violation{"version",
                     join("expected ", kVersion, ", received ", s.version, "; a newer schedule needs a newer release")};
  }
  if (Found found = check_extents("tile", s.tile, "token")) return found;
  if (!(s.shift > 0.0 && std::isfinite(s.shift))) {
    return Violation{"shift", join("expected a positive number, received ", s.shift)};
  }
  if (s.feed_forward == Quant::kInt8) {
    return Violation{"feed_forward", "expected \"none\" or \"e4m3\", received \"int8\", which attention alone has"};
  }
  if (Found found = check_phases(s)) return found;
  for (size_t i = 0; i < s.overrides.size(); ++i) {
    if (Found found = check_override(s, s.overrides[i], join("override ", i + 1))) return found;
  }
  return {};
}

std::optional<Violation> find_violation(const CandidateList& list) {
  if (Found found = check_extents("tile", list.tile, "token")) return found;
  if (list.candidates.empty()) return Violation{"candidate", "expected at least one [[candidate]], received none"};
  for (size_t i = 0; i < list.candidates.size(); ++i) {
    const Candidate& candidate = list.candidates[i];
    const std::string where = join("candidate ", i + 1);
    if (Found found = check_granularity(where + " granularity", candidate.granularity, list.tile)) return found;
    if (Found found = check_extents(where + " window", candidate.window, "tile")) return found;
    for (size_t j = 0; j < i; ++j)
      if (list.candidates[j] == candidate) return Violation{where, join("repeats candidate ", j + 1, "; remove one")};
  }
  return {};
}

}  // namespace fpsa::schedule
