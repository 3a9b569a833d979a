// `fpsa calibrate`: which settings of attention a model stands at which step, and the schedule that follows.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "fpsa/app/generate_options.h"

namespace fpsa::app {

/// What `fpsa calibrate` was asked to do.
struct CalibrateOptions {
  GenerateOptions run;                       // model, prompts, shape, sampling, machine
  std::filesystem::path candidates;          // TOML; empty: the default ladder
  std::string quant = "e4m3";                // of the default candidates
  std::optional<double> density, max_error;  // at most one; neither: density 0.25
  std::string per = "phases";                // phases, layer, head
  int64_t step_stride = 1, layer_stride = 1;
  std::filesystem::path output = "schedule.toml", report = "calibrate.html", json;
  std::string command;  // the line to be typed for the same again
};

/// Runs every prompt through the dense model, measures the candidates, and writes schedule, page and JSON, all or none.
///   Threads   uses options.run.threads; the same request and threads give the same bytes
///   Errors    UsageError for a request that the model or the candidates cannot meet; fpsa::Error; Interrupted
void calibrate(const CalibrateOptions& options);

}  // namespace fpsa::app
