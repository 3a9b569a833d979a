// From the records of a study to its figures: means with intervals, paired differences, speed ratios, sentences.
#pragma once

#include <array>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "fpsa/app/study_record.h"
#include "fpsa/app/study_stats.h"
#include "fpsa/train/accuracy.h"

namespace fpsa::app {

/// One arm and the records that it has so far, by item.
struct ArmResults {
  Arm arm;
  int64_t planned = 0;
  std::vector<ClipRecord> records;
};

/// How fast an arm is: medians over the clips of one machine, each beside the dense clip of its item and run.
struct ArmSpeed {
  int64_t clips = 0;
  ClipSeconds seconds;  // medians
  double attention_share = 0;
  double attention = 1, denoise = 1, total = 1;  // times as fast as dense, medians of the ratios of pairs
  double total_low = 1, total_high = 1;          // quartiles of the last
};

struct ArmAccuracy {
  std::array<train::Share, 4> attributes;  // of train::kAttributeNames
  train::Share all;                        // all four right
  Estimate pooled;                         // mean share of right attributes of a prompt
  // Less the dense arm's of the same items; empty for the dense arm and where no item is in both.
  std::optional<Estimate> pooled_change, all_change;
};

struct ArmSummary {
  Arm arm;
  int64_t planned = 0, done = 0;
  double density = 1;
  std::vector<std::string> kernels;
  int64_t identical = 0;                              // clips that equal dense ones
  std::optional<Estimate> psnr_db, temporal_psnr_db;  // over the clips that are not
  std::optional<Estimate> ssim, lpips, change_ratio, flicker_ratio;
  std::optional<ArmSpeed> speed;  // not of an emulation
  std::optional<ArmAccuracy> accuracy;
};

/// The machine that most records are from; empty without records.
std::string main_machine(const std::vector<ArmResults>& results);

/// Summaries in the order of the arms, which begin with the dense one.
std::vector<ArmSummary> summarise(const std::vector<ArmResults>& results, uint64_t seed);

/// What can be said, one sentence each: accuracy lost or not shown to be lost, against dense and,
/// for trained weights, against the arm that runs their schedule without them; speed; what is missing.
std::vector<std::string> verdicts(const std::vector<ArmResults>& results, const std::vector<ArmSummary>& summaries,
                                  uint64_t seed);

nlohmann::json to_json(const Estimate& estimate);
nlohmann::json to_json(const ArmSummary& summary);

}  // namespace fpsa::app
