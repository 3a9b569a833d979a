// One optimiser for a whole model: Muon on its matrices, AdamW on everything else, gradient clipping by the global
// norm, and an exponential moving average of the weights.
//
// Muon (Jordan et al. 2024) replaces the momentum of a matrix by the nearest semi-orthogonal matrix, found by five
// Newton-Schulz steps; the step is scaled by 0.2 sqrt(max(rows, columns)), so that its entries have the size of an
// AdamW step and one learning rate serves both (Liu et al. 2025).
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "fpsa/nn/tensor_map.h"

namespace fpsa::train {

struct OptimizerConfig {
  double beta1 = 0.9, beta2 = 0.99, epsilon = 1e-8;  // AdamW
  double momentum = 0.95;                            // Muon, Nesterov
  double weight_decay = 0.0;                         // both, decoupled
  double adam_scale = 1.0;                           // AdamW's learning rate relative to Muon's
  double clip_norm = 1.0;                            // 0 switches clipping off
  double ema = 0.99;                                 // decay per step; 0 keeps the weights themselves
};

/// U V^T of the singular value decomposition, about: singular values end in [0.7, 1.2].
///   Shapes    x [n, rows, columns], a stack of matrices; out alike
///   Numerics  BF16 inside, out in x's dtype
at::Tensor orthogonalise(const at::Tensor& x);

/// Owns the optimiser's state for a set of leaf tensors.
class Optimizer {
 public:
  /// `is_matrix` names the parameters that Muon moves, with two dimensions or more: a convolution's weight counts as
  /// the matrix [out, in * taps]. The rest is AdamW's. A parameter without a gradient stays as it is.
  ///   Errors    fpsa::Error when is_matrix picks a vector
  Optimizer(const nn::TensorMap& parameters,
            const std::function<bool(const std::string&, const at::Tensor&)>& is_matrix, const OptimizerConfig& config);

  /// Applies the gradients, clears them and moves the average. Returns the gradients' norm before clipping; when it
  /// is not finite nothing but the gradients changes.
  ///   Threads   deterministic for a fixed number of threads
  double step(double learning_rate);

  /// Drops the gradients without a step.
  void clear_gradients();

  /// The state under names that start with "adam.", "muon." or "ema."; the tensors are shared, not copied.
  nn::TensorMap state() const;
  /// Takes over a state of the same parameters.
  ///   Errors    fpsa::Error naming a missing or mis-shaped tensor
  void load_state(const nn::TensorMap& state);

  /// The averaged weights, by parameter name.
  const nn::TensorMap& averaged() const { return ema_; }
  /// Exchanges weights and average in place: called twice around an evaluation.
  void swap_averaged();

 private:
  void step_adam(double learning_rate, double gradient_scale);
  void step_muon(double learning_rate, double gradient_scale);

  OptimizerConfig config_;
  nn::TensorMap parameters_, ema_;
  struct Adam {
    std::vector<std::string> names;
    std::vector<at::Tensor> weights, mean, square, steps;
  } adam_;
  // Matrices of one shape are moved together: one batched product instead of many small ones. Weights are views.
  struct MuonGroup {
    std::vector<std::string> names;
    std::vector<at::Tensor> weights;
    at::Tensor momentum;  // [n, rows, columns]
  };
  std::vector<MuonGroup> muon_;
};

}  // namespace fpsa::train
