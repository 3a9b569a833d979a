// Everything that a study reports: as JSON here, as a page in study_page.h.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "fpsa/app/study_summary.h"

namespace fpsa::app {

/// A clip that the page plays.
struct ShownClip {
  int64_t item = 0;
  std::string prompt, label;
  std::filesystem::path file;
};

struct StudyReport {
  std::string model, machine, grid, schedule_origin;
  nlohmann::json settings;  // study.json
  std::vector<ArmResults> results;
  std::vector<ArmSummary> summaries;
  std::vector<std::string> verdicts, notes;
  std::vector<ShownClip> clips;  // by item, then by arm
};

/// What the figures mean and what is not in them, a paragraph each; `...` marks what is typed.
std::vector<std::string> study_notes(bool judged, bool trained, bool lpips);

/// Records made on another machine than `report.machine`: in the figures of quality, not in those of speed.
int64_t records_elsewhere(const StudyReport& report);

/// The report's figures, unrounded.
nlohmann::json study_json(const StudyReport& report);

}  // namespace fpsa::app
