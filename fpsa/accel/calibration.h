// What candidates of a schedule would do to the dense model, measured while it runs.
//
// The output is dense attention's, so that every step sees the latents of the dense run. Beside it each candidate
// computes the same q, k and v, and its error is summed per step, layer and head. That is the error of single
// attention calls: how it spreads through later layers and steps, and how training adapts to it, is not in it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "fpsa/nn/attention_method.h"
#include "fpsa/ops/plan.h"
#include "fpsa/schedule/search.h"

namespace fpsa::accel {

/// Sums over all elements of one (candidate, step, layer, head), in F64.
struct ErrorSums {
  double error = 0;      // (candidate - dense)^2
  double dense = 0;      // dense^2
  double candidate = 0;  // candidate^2
  double product = 0;    // candidate * dense

  /// |candidate - dense| / |dense|; 0 when both are zero, infinite when dense alone is.
  double relative_l2() const;
  /// In [-1, 1]; 1 when both are zero, 0 when one is.
  double cosine() const;
  /// Signal to noise, 10 log10(dense / error); infinite without an error.
  double snr_db() const;
};

struct CalibrationOptions {
  schedule::CandidateList list;
  int64_t step_stride = 1;   // measures steps 0, n, 2n ...; those between stand for the last measured one
  int64_t layer_stride = 1;  // measures layers 0, n, 2n ...; the others are not in the table
  /// Called before every candidate's attention, which takes long on a large model; may throw. May be empty.
  std::function<void()> before_candidate;
};

/// Dense attention that measures. Sums grow over batch, repeated calls (guidance) and runs (prompts).
/// Not for concurrent use.
class Calibration : public nn::AttentionMethod {
 public:
  /// Errors    what schedule::validate refuses; strides below 1
  explicit Calibration(CalibrationOptions options);

  ///   Errors    candidates that do not fit the grid; a call whose grid, steps, layers or heads differ from the
  ///   first's;
  ///             inputs that require gradients
  at::Tensor self_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const nn::AttentionContext& context) override;

  const schedule::CandidateList& list() const { return options_.list; }
  int64_t steps() const { return first_.num_steps; }
  int64_t heads() const { return heads_; }
  /// The measured layers, rising. Their positions are the layers of sums() and table().
  const std::vector<int64_t>& layers() const { return layers_; }
  /// Sums of the step, or of the measured step that stands for it.
  ///   Requires  indices in range: candidate of list(), step of steps(), layer of layers(), head of heads()
  const ErrorSums& sums(size_t candidate, int64_t step, int64_t layer, int64_t head) const;

  /// Relative L2 of everything, with the candidates' densities on the grid of the calls.
  ///   Errors    no calls yet, or a step and layer to be measured that none came for; an error that is not finite
  schedule::ErrorTable table() const;

 private:
  void begin(const nn::AttentionContext& context, int64_t heads);
  void check_same(const nn::AttentionContext& context, int64_t heads) const;
  size_t index(size_t candidate, int64_t step, int64_t layer, int64_t head) const;
  void add(const at::Tensor& dense, const at::Tensor& out, size_t candidate, int64_t step, int64_t layer);

  CalibrationOptions options_;
  nn::AttentionContext first_;  // of the first call
  int64_t heads_ = 0;
  std::vector<int64_t> layers_;
  std::vector<std::shared_ptr<const ops::Plan>> plans_;  // of each candidate, kept: the shared cache may be smaller
  std::vector<ErrorSums> sums_;                          // [candidate][measured step][measured layer][head]
  std::vector<int64_t> calls_;                           // [measured step][measured layer]
};

}  // namespace fpsa::accel
