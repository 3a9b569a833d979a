// The seam between the training loop and what is trained.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

#include "fpsa/nn/tensor_map.h"
#include "fpsa/train/recipe.h"

namespace fpsa::train {

/// Named numbers for the log and metrics.jsonl.
using Figures = std::map<std::string, double>;

/// One batch's loss.
struct Loss {
  at::Tensor total;  // scalar with a graph
  int64_t samples = 0;
  Figures figures;  // parts of the loss, already numbers
};

/// A model together with its loss and data. Everything random follows from (seed, step, micro-batch), so the step
/// number is the whole data position.
class Objective {
 public:
  virtual ~Objective() = default;

  /// The leaves to train, by name.
  virtual const nn::TensorMap& parameters() const = 0;
  /// Tensors that keep what the parameters of the same names hold when the run starts. The loop fills them; checkpoints
  /// carry them.
  virtual nn::TensorMap frozen() const { return {}; }
  /// Is this parameter one of the matrices that Muon moves?
  virtual bool is_matrix(const std::string& name, const at::Tensor& weight) const = 0;

  /// Called when a stage begins and when one is resumed at `stage_step`.
  virtual void enter(const Stage& stage, int64_t index, int64_t stage_step) = 0;
  /// The loss of the batch that belongs to `step` (counted over all stages), `stage_step` and the `micro`-th of the
  /// stage's micro-batches.
  virtual Loss loss(int64_t step, int64_t stage_step, int64_t micro = 0) = 0;

  /// Measures quality; the averaged weights are in place. `final` at the end of a stage. Images go to `folder`.
  virtual Figures evaluate(const std::filesystem::path& folder, const std::string& tag, bool final) = 0;
};

/// A 64-bit mix of its arguments: independent seeds for independent purposes.
uint64_t mix(uint64_t a, uint64_t b, uint64_t c = 0, uint64_t d = 0);

}  // namespace fpsa::train
