// `fpsa study`: the tables of the paper on a model folder, from one resumable run.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "fpsa/app/generate_options.h"

namespace fpsa::app {

struct StudyOptions {
  GenerateOptions run;  // model, prompt file, clip shape, sampling, machine
  std::filesystem::path out;
  std::vector<std::pair<std::string, std::filesystem::path>> trained;
  std::filesystem::path arms_file, lpips_weights;
  std::vector<std::string> only;
  int64_t prompts = 400, ablation_prompts = 32;
  int64_t samples = 1;      // clips of one prompt
  int64_t shown_clips = 3;  // items whose clips the page plays
  bool full = false, budget = false, dry_run = false, report_only = false;
  std::filesystem::path vbench_layout;
};

/// Makes what is missing in the study's folder, then writes report.html and report.json there.
///   Edges     Ctrl-C keeps every finished clip and writes the report of what is there before it is passed on
///   Errors    UsageError: options that do not fit each other or the folder; fpsa::Error: whatever sampling refuses
void run_study(const StudyOptions& options);

}  // namespace fpsa::app
