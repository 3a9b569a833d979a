// The rules of a schedule, stated once for the TOML reader (which adds line numbers) and for validate().
#pragma once

#include <optional>
#include <string>

#include "fpsa/schedule/candidates.h"
#include "fpsa/schedule/schedule.h"

namespace fpsa::schedule {

/// A broken rule. `key` is the path in the words of the TOML text: "tile", "phase 2 until", "override 1 layers".
struct Violation {
  std::string key, message;
};

/// The first broken rule, or nothing.
std::optional<Violation> find_violation(const Schedule& schedule);
std::optional<Violation> find_violation(const CandidateList& list);

}  // namespace fpsa::schedule
