// The transformer's forward in training under the recipe's attention: dense, or each sample in the phase of its noise
// level, with windows that narrow as the stage says.
#pragma once

#include <ATen/ATen.h>

#include <memory>
#include <optional>

#include "fpsa/accel/methods.h"
#include "fpsa/models/wan/dit.h"
#include "fpsa/train/objective.h"
#include "fpsa/train/phases.h"

namespace fpsa::train {

class PhasedForward {
 public:
  /// Sets the model's feed-forward as the recipe's schedule wants it, and its gradient checkpointing. The model must
  /// outlive this.
  ///   Errors    fpsa::Error: a schedule with layers or heads that the model lacks
  PhasedForward(const Recipe& recipe, models::wan::WanDit& dit);

  /// Chooses the attention of a step: what comes before run(), and after the backward of the step before.
  void attend(const Stage& stage, int64_t stage_step);

  /// One forward for the samples of each phase; the outputs in the order of the batch. Adds the figure "density" where
  /// there is a schedule. Every sample keeps a noise level of its own, as in dense training, and no phase's share of
  /// the loss depends on the others in the batch: the mean over the batch estimates the same expectation, at a lower
  /// variance than one level for all of them would.
  ///   Shapes    sigma [B] F32, what the input's timesteps were made of
  models::wan::DitOutput run(const nn::DenoiserInput& input, const models::wan::DitOptions& options,
                             const at::Tensor& sigma, Figures& figures);

 private:
  std::optional<schedule::Schedule> schedule_,
      attended_;  // the recipe's, and what attention_ follows: it or a denser one
  models::wan::WanDit& dit_;
  std::unique_ptr<accel::Method> attention_;
  std::optional<StepLevels> levels_;
};

}  // namespace fpsa::train
