#include "fpsa/accel/calibration.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "fpsa/accel/precision.h"

namespace fpsa::accel {
namespace {

// [B, L, H, D] -> H sums.
at::Tensor per_head(const at::Tensor& x) {
  return x.sum({0, 1, 3}, /*keepdim=*/false, at::kDouble);
}

}  // namespace

double ErrorSums::relative_l2() const {
  return error == 0 ? 0 : std::sqrt(error / dense);
}

double ErrorSums::cosine() const {
  if (candidate == 0 || dense == 0) return candidate == dense ? 1 : 0;
  return std::clamp(product / (std::sqrt(candidate) * std::sqrt(dense)), -1.0, 1.0);
}

double ErrorSums::snr_db() const {
  return error == 0 ? std::numeric_limits<double>::infinity() : 10 * std::log10(dense / error);
}

Calibration::Calibration(CalibrationOptions options) : options_(std::move(options)) {
  schedule::validate(options_.list);
  FPSA_CHECK(options_.step_stride >= 1 && options_.layer_stride >= 1,
             "calibration: expected strides of at least 1, received ", options_.step_stride, " and ",
             options_.layer_stride);
}

void Calibration::begin(const nn::AttentionContext& context, int64_t heads) {
  schedule::check_for_grid(options_.list, context.grid);
  for (const auto& candidate : options_.list.candidates)
    plans_.push_back(ops::plan_for(context.grid, options_.list.tile, candidate.granularity, "sta", candidate.window));
  first_ = context;
  heads_ = heads;
  for (int64_t layer = 0; layer < context.num_layers; layer += options_.layer_stride)
    layers_.push_back(layer);
  const auto measured_steps = (context.num_steps + options_.step_stride - 1) / options_.step_stride;
  calls_.assign(static_cast<size_t>(measured_steps) * layers_.size(), 0);
  sums_.assign(options_.list.candidates.size() * calls_.size() * static_cast<size_t>(heads), {});
}

void Calibration::check_same(const nn::AttentionContext& context, int64_t heads) const {
  FPSA_CHECK(context.grid == first_.grid && context.num_steps == first_.num_steps &&
                 context.num_layers == first_.num_layers && heads == heads_,
             "calibration: expected calls of one model and shape: grid ", pattern::to_string(first_.grid), ", ",
             first_.num_steps, " steps, ", first_.num_layers, " layers, ", heads_, " heads; received grid ",
             pattern::to_string(context.grid), ", ", context.num_steps, " steps, ", context.num_layers, " layers, ",
             heads, " heads");
  FPSA_CHECK(
      context.step >= 0 && context.step < first_.num_steps && context.layer >= 0 && context.layer < first_.num_layers,
      "calibration: expected a step below ", first_.num_steps, " and a layer below ", first_.num_layers,
      ", received step ", context.step, ", layer ", context.layer);
}

at::Tensor Calibration::self_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                       const nn::AttentionContext& context) {
  FPSA_CHECK(q.dim() == 4, "calibration: q must be [B,L,H,D], got ", q.dim(), " dimensions");
  if (heads_ == 0) begin(context, q.size(2));
  check_same(context, q.size(2));
  auto dense = ops::dense_attention(q, k, v).out;
  if (context.step % options_.step_stride != 0 || context.layer % options_.layer_stride != 0) return dense;
  const int64_t layer = context.layer / options_.layer_stride;
  const auto reference = dense.to(at::kFloat);
  for (size_t i = 0; i < options_.list.candidates.size(); ++i) {
    if (options_.before_candidate) options_.before_candidate();
    const auto precision = attention_options(options_.list.candidates[i].quant);
    add(reference, ops::attention(q, k, v, *plans_[i], precision).out.to(at::kFloat), i, context.step, layer);
  }
  ++calls_[static_cast<size_t>(context.step / options_.step_stride) * layers_.size() + static_cast<size_t>(layer)];
  return dense;
}

size_t Calibration::index(size_t candidate, int64_t step, int64_t layer, int64_t head) const {
  const auto cell = static_cast<size_t>(step / options_.step_stride) * layers_.size() + static_cast<size_t>(layer);
  return (candidate * calls_.size() + cell) * static_cast<size_t>(heads_) + static_cast<size_t>(head);
}

// Products in F32, 2^-24 each, summed in F64.
void Calibration::add(const at::Tensor& dense, const at::Tensor& out, size_t candidate, int64_t step, int64_t layer) {
  const auto error = per_head((out - dense).square()), dense_square = per_head(dense.square()),
             candidate_square = per_head(out.square()), product = per_head(out * dense);
  for (int64_t head = 0; head < heads_; ++head) {
    auto& sums = sums_[index(candidate, step, layer, head)];
    sums.error += error[head].item<double>();
    sums.dense += dense_square[head].item<double>();
    sums.candidate += candidate_square[head].item<double>();
    sums.product += product[head].item<double>();
  }
}

const ErrorSums& Calibration::sums(size_t candidate, int64_t step, int64_t layer, int64_t head) const {
  return sums_[index(candidate, step, layer, head)];
}

schedule::ErrorTable Calibration::table() const {
  FPSA_CHECK(heads_ > 0, "calibration: expected attention calls before the table, received none");
  for (size_t i = 0; i < calls_.size(); ++i)
    FPSA_CHECK(calls_[i] > 0, "calibration: expected every step and layer, received no call for step ",
               static_cast<int64_t>(i / layers_.size()) * options_.step_stride, ", layer ",
               layers_[i % layers_.size()]);
  schedule::ErrorTable table;
  table.list = options_.list;
  table.steps = steps();
  table.layers = static_cast<int64_t>(layers_.size());
  table.heads = heads_;
  for (size_t i = 0; i < table.candidates(); ++i) {
    table.density.push_back(plans_[i]->density());
    for (int64_t step = 0; step < table.steps; ++step)
      for (int64_t layer = 0; layer < table.layers; ++layer)
        for (int64_t head = 0; head < heads_; ++head) {
          table.error.push_back(sums(i, step, layer, head).relative_l2());
          FPSA_CHECK(std::isfinite(table.error.back()), "calibration: expected finite errors, received ",
                     table.error.back(), " of candidate ", i + 1, " (", schedule::to_string(table.list.candidates[i]),
                     ") at step ", step, ", layer ", layers_[static_cast<size_t>(layer)], ", head ", head,
                     "; check the weights");
        }
  }
  return table;
}

}  // namespace fpsa::accel
