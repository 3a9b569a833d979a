#include "fpsa/nn/merging_source.h"

namespace fpsa::nn {

at::Tensor MergingSource::get(const ParameterSpec& spec) {
  const auto found = deltas_.find(spec.name);
  if (found == deltas_.end()) return base_.get(spec);
  ParameterSpec wide = spec;
  wide.keep_f32 = true;
  at::Tensor sum = base_.get(wide).clone();  // the base's may be the file's own pages
  for (const WeightDelta& delta : found->second) {
    const auto f32 = [&](const at::Tensor& t) { return t.to(sum.device(), at::kFloat); };
    const at::Tensor difference = delta.whole.defined()
                                      ? f32(delta.whole)
                                      : at::mm(f32(delta.low_rank.b).flatten(1), f32(delta.low_rank.a).flatten(1));
    sum.add_(difference.view_as(sum), delta.low_rank.scale);
  }
  return sum.to(spec.keep_f32 ? at::kFloat : compute_dtype_);
}

}  // namespace fpsa::nn
