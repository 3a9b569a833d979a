// Adds given differences to the weights of another source while a model is loaded: merged LoRA adapters.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "fpsa/nn/parameters.h"

namespace fpsa::nn {

/// One difference to a parameter: scale B A, or scale times a whole tensor of its shape (then `whole` is defined).
struct WeightDelta {
  LowRank low_rank;
  at::Tensor whole;
};
/// By the parameter's full name.
using WeightDeltas = std::map<std::string, std::vector<WeightDelta>>;

/// Answers as `base` does, with the deltas added.
///   Numerics  a parameter with deltas is asked for and summed in F32, in the order of its list, then rounded once to
///             the compute dtype (F32 where the module keeps F32); one without is base's own tensor
///   Requires  deltas of the parameters' shapes; a convolution's factors are matrices over its flattened taps
class MergingSource : public ParameterSource {
 public:
  MergingSource(ParameterSource& base, const WeightDeltas& deltas, at::ScalarType compute_dtype)
      : base_(base), deltas_(deltas), compute_dtype_(compute_dtype) {}

  at::Tensor get(const ParameterSpec& spec) override;

 private:
  ParameterSource& base_;
  const WeightDeltas& deltas_;
  at::ScalarType compute_dtype_;
};

}  // namespace fpsa::nn
