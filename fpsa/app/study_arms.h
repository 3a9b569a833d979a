// The arms of a study: which model runs with which attention over how many prompts. Data, made by pure functions.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "fpsa/ops/p_coding.h"
#include "fpsa/schedule/schedule.h"

namespace fpsa::app {

/// Which table of the report an arm belongs to.
enum class ArmGroup { kMain, kTile, kWindow, kGranularity, kPrecision, kPCoding, kSteps, kFrontier, kOwn };
inline constexpr ArmGroup kArmGroups[] = {ArmGroup::kMain,        ArmGroup::kTile,      ArmGroup::kWindow,
                                          ArmGroup::kGranularity, ArmGroup::kPrecision, ArmGroup::kPCoding,
                                          ArmGroup::kSteps,       ArmGroup::kFrontier,  ArmGroup::kOwn};
/// "main", "tile" and so on, and the title of the table.
std::string_view name_of(ArmGroup group);
std::string_view title_of(ArmGroup group);

/// One arm.
struct Arm {
  std::string name;   // of its folder: letters, digits, '.', '_', '-'
  std::string label;  // for people
  ArmGroup group = ArmGroup::kMain;
  std::filesystem::path model;                 // folder
  std::string method;                          // dense, sta, fp8, int8, fps
  std::optional<schedule::Schedule> schedule;  // none for dense
  int64_t prompts = 0;                         // the first so many of the study's
  bool judged = false;                         // whether the checker's accuracy is reported
  bool trained = false;                        // weights other than the dense arm's
  std::optional<ops::PCoding> coding;          // emulated instead of the kernels' own: its speed means nothing

  /// What decides its clips: equal for arms that do the same work.
  nlohmann::json identity() const;
};

/// Weights trained for a schedule: --trained NAME=FOLDER.
struct TrainedModel {
  std::string name;
  std::filesystem::path folder;
  std::optional<schedule::Schedule> schedule;  // what they carry
};

struct ArmRequest {
  std::filesystem::path model;
  schedule::Schedule schedule;  // of everything that is not trained for its own
  pattern::Grid grid;
  std::vector<TrainedModel> trained;
  int64_t prompts = 400, ablation_prompts = 32;
  bool judged = false;  // the prompts are those that the checker can judge
  bool full = false;    // the frontier of densities as well
};

/// The name of the arm that all others are compared with.
inline constexpr std::string_view kDenseArm = "dense";

/// The built-in arms, dense first. An ablation that comes out equal to an earlier arm (a window that already is the
/// narrowest) is left out, and so is a tile beyond the grid and a density that no window of the grid comes near.
///   Errors    UsageError for a --trained name that is not a folder's or is taken
std::vector<Arm> built_in_arms(const ArmRequest& request);

/// The densities of the frontier, in percent, that none of the arms has.
std::vector<int> missing_of_frontier(const std::vector<Arm>& arms);

/// Adds the arms of a TOML file: [[arm]] with name and method, optional label, model, schedule (paths relative to the
/// file), tile, window, granularity, quant, phase (from 1), prompts, judge. Without schedule it is the request's, for
/// another model too.
///   Errors    fpsa::Error: "path:line: key: what"
void add_arms_of_file(const std::filesystem::path& path, const ArmRequest& request, std::vector<Arm>& arms);

/// Keeps the named arms and the dense one; an empty list keeps all.
///   Errors    UsageError naming the nearest known arm
std::vector<Arm> select_arms(const std::vector<Arm>& arms, const std::vector<std::string>& only);

/// Checks a name that becomes a folder.
///   Errors    UsageError naming `flag`
void check_arm_name(const std::string& flag, const std::string& name);

}  // namespace fpsa::app
