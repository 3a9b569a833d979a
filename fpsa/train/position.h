// Where a run stands, as its checkpoint says it.
#pragma once

#include <cstdint>
#include <map>
#include <string>

namespace fpsa::train {

struct Position {
  int64_t step = 0, stage = 0, stage_step = 0, samples = 0;
  int64_t skipped = 0, skipped_in_row = 0;  // steps that were not finite: all, and those up to now without a good one
  double stage_seconds = 0, total_seconds = 0;
};

/// One entry for each member, by its name; the seconds lose no bit.
std::map<std::string, std::string> to_metadata(const Position& position);

/// The inverse. Checkpoints from before skipped steps were counted have none.
///   Errors    fpsa::Error naming `origin` and the entry that is missing or impossible in a run of that many stages
Position position_from(const std::map<std::string, std::string>& metadata, int64_t stages, const std::string& origin);

}  // namespace fpsa::train
