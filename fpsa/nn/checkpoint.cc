#include "fpsa/nn/checkpoint.h"

#include "fpsa/base/check.h"

namespace fpsa::nn {
namespace {

std::string shape_text(at::IntArrayRef shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i)
    text += join(i ? ", " : "", shape[i]);
  return text + "]";
}

}  // namespace

std::string CheckpointReport::text() const {
  std::string out;
  if (!missing.empty()) out += join("\nmissing (", missing.size(), "):");
  for (const std::string& name : missing)
    out += "\n  " + name;
  if (!unexpected.empty()) out += join("\nunexpected (", unexpected.size(), "):");
  for (const std::string& name : unexpected)
    out += "\n  " + name;
  if (!mis_shaped.empty()) out += join("\nmis-shaped (", mis_shaped.size(), "):");
  for (const Mismatch& m : mis_shaped)
    out += join("\n  ", m.name, ": expected ", m.expected, ", received ", m.received);
  return out;
}

CheckpointSource::CheckpointSource(TensorMap tensors, at::ScalarType compute_dtype, std::string origin,
                                   TensorMap scales, at::Device device)
    : tensors_(std::move(tensors)),
      scales_(std::move(scales)),
      compute_dtype_(compute_dtype),
      device_(device),
      origin_(std::move(origin)) {}

at::Tensor CheckpointSource::get(const ParameterSpec& spec) {
  const at::ScalarType wanted = spec.keep_f32 ? at::kFloat : compute_dtype_;
  const auto absent = [&] {
    return at::zeros({}, at::TensorOptions().dtype(wanted).device(device_)).expand(spec.shape);
  };
  requested_.insert(spec.name);
  const auto found = tensors_.find(spec.name);
  if (found == tensors_.end()) {
    report_.missing.push_back(spec.name);
    return absent();
  }
  const at::Tensor& stored = found->second;
  if (stored.sizes() != at::IntArrayRef(spec.shape)) {
    report_.mis_shaped.push_back({spec.name, shape_text(spec.shape), shape_text(stored.sizes())});
    return absent();
  }
  if (!at::isFloatingType(stored.scalar_type())) {
    report_.mis_shaped.push_back({spec.name, "a floating-point tensor", at::toString(stored.scalar_type())});
    return absent();
  }
  ++report_.used;
  return convert(stored, spec);
}

at::Tensor CheckpointSource::convert(const at::Tensor& stored, const ParameterSpec& spec) {
  const at::ScalarType wanted = spec.keep_f32 ? at::kFloat : compute_dtype_;
  const auto scale = scales_.find(spec.name);
  if (scale == scales_.end() && stored.scalar_type() == wanted) return stored;
  const at::Tensor converted =
      scale == scales_.end() ? stored.to(wanted) : stored.to(at::kFloat).mul_(scale->second.to(at::kFloat)).to(wanted);
  ++report_.converted;
  report_.converted_bytes += static_cast<int64_t>(converted.nbytes());
  return converted;
}

CheckpointReport CheckpointSource::report() const {
  CheckpointReport report = report_;
  for (const auto& [name, tensor] : tensors_)
    if (!requested_.contains(name)) report.unexpected.push_back(name);
  return report;
}

CheckpointReport CheckpointSource::finish() const {
  CheckpointReport result = report();
  FPSA_CHECK(result.ok(), origin_, ": the tensors do not fit the model", result.text());
  return result;
}

}  // namespace fpsa::nn
