// What a calibration found, as a schedule's text, as JSON and in a few lines for the terminal.
#pragma once

#include <string>
#include <vector>

#include "fpsa/accel/calibration.h"
#include "fpsa/app/calibrate.h"
#include "fpsa/app/clip_shape.h"
#include "fpsa/diffusion/loop.h"
#include "fpsa/schedule/search.h"

namespace fpsa::app {

/// The request, the measurements and the choice of one finished calibration.
struct CalibrationReport {
  const CalibrateOptions& options;
  const std::vector<std::string>& prompts;  // one without a text stands for --prompt-embeds
  const ClipShape& shape;
  const diffusion::LoopOptions& loop;
  std::string dtype;  // that the model computed in
  schedule::Budget budget;
  const accel::Calibration& measured;
  const schedule::ErrorTable& table;
  const schedule::Schedule& schedule;
};

/// One phase of the chosen schedule.
struct PhaseSummary {
  int64_t first_step = 0, end_step = 0;
  double until = 1;
  schedule::Candidate setting;  // where no override says otherwise
  schedule::Prediction prediction;
};
std::vector<PhaseSummary> phases_of(const CalibrationReport& report);

/// "mean density at most 0.25".
std::string budget_text(const schedule::Budget& budget);

/// "33 frames 256x256 (9x16x16 tokens), 20 steps of unipc, shift 5, guidance 3, seed 0, bf16".
std::string run_text(const CalibrationReport& report);

/// The schedule in TOML under a comment that says from what it was made and what it is expected to do.
std::string schedule_text(const CalibrationReport& report);

/// Every measurement; "format" and "version" say which keys to expect.
///   Edges     an SNR without noise is null; steps between the measured ones repeat those they stand on
std::string calibration_json(const CalibrationReport& report);

/// The phases and what is expected of them.
std::string summary_text(const CalibrationReport& report);

}  // namespace fpsa::app
