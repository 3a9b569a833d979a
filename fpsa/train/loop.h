// The training loop: stages, learning rate, progress, metrics, checkpoints and exact resume.
//
// The output folder holds metrics.jsonl (one JSON object per report and evaluation, and one with "run" where the run is
// begun or resumed: what was written before it about later steps is void), checkpoint.safetensors (weights, averages,
// optimiser state, position and, as metadata `fpsa.schedule`, the recipe's schedule; replaced atomically) and
// previews/.
#pragma once

#include <filesystem>
#include <functional>
#include <string>

#include "fpsa/train/objective.h"

namespace fpsa::train {

enum class RunState { kRunning, kStopped, kFinished };

struct LoopOptions {
  std::filesystem::path out = {};
  bool resume = false;              // continue from out/checkpoint.safetensors, which must exist
  nn::TensorMap weights = {};       // what to start from, or empty; "helper.*" may be missing
  int64_t stop_after = 0;           // stop, with a checkpoint, when this many steps are done; 0: never
  std::function<bool()> stop = {};  // asked between steps: true means checkpoint and return
  std::function<void(const std::string&)> print = {};  // one finished progress line
  std::function<void(RunState)> observe = {};          // after every line of metrics, and at the end
};

struct LoopResult {
  int64_t steps = 0;
  bool finished = false;  // false: stopped by `stop` or `stop_after`
};

/// Trains until the recipe's last stage ends. A run that is stopped and resumed takes the same path, bit for bit, as
/// one that was not, when stages are limited by steps and the number of threads is the same. A step whose loss or
/// gradients are not finite changes nothing but the position; it is reported and counted ("skipped" in the metrics).
///   Errors    fpsa::Error: unwritable folder, a checkpoint of another recipe or schedule, weights of another model,
///             the recipe's non_finite_limit of such steps in a row
LoopResult run_loop(Objective& objective, const Recipe& recipe, const LoopOptions& options);

/// What run_loop() does to an objective before its first step: gives it the weights, unless there are none ("helper.*"
/// may be missing), and its frozen tensors what it then holds.
///   Errors    fpsa::Error: weights of another model
void start_from(Objective& objective, const nn::TensorMap& weights);

/// Reads the averaged weights of a checkpoint, names without prefix; `averaged` false: the weights themselves.
nn::TensorMap checkpoint_weights(const std::filesystem::path& file, bool averaged = true);

}  // namespace fpsa::train
