// What a study works on: its prompts, and the schedule of its untrained arms.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "fpsa/app/model_session.h"
#include "fpsa/app/study.h"
#include "fpsa/schedule/schedule.h"
#include "fpsa/train/clips.h"

namespace fpsa::app {

struct StudyPrompts {
  std::vector<std::string> texts;
  std::vector<train::ClipSpec> specs;  // what the clips should show; empty for prompts from a file
};

/// The first lines of --prompt-file, as many as --prompts, or held-out procedural prompts.
///   Errors    UsageError: a model that does not know the procedural prompts; prompts that cannot be names of
///             --vbench-layout
StudyPrompts study_prompts(const StudyOptions& options, const ModelSession& model);

/// The schedule and where it is from: the flag, what the weights carry, fps.toml beside them, the built-in default.
///   Errors    those of schedule::parse_toml
std::pair<schedule::Schedule, std::string> study_schedule(const GenerateOptions& options, const ModelSession& model);

}  // namespace fpsa::app
