// What a training run's metrics.jsonl says, without the lines that a resumption made void.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace fpsa::app {

struct TrainMetrics {
  /// Objects with "step", rising: means over the steps since the report before, and evaluations.
  std::vector<nlohmann::json> reports, evaluations;
  nlohmann::json last;  // the newest of both, or null
  nlohmann::json data;  // what preparing the videos found (train::DataReport), or null
  int64_t damaged = 0;  // lines that are no JSON objects
};

/// Reads the whole file. Where a run was resumed or begun again, what an earlier one had written of later steps is
/// dropped: those steps were done again. Of two lines about the same step the later one counts.
///   Edges     no file gives nothing
TrainMetrics read_train_metrics(const std::filesystem::path& file);

}  // namespace fpsa::app
