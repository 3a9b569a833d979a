// Where a module gets its tensors.
//
// A module asks a Scope for each parameter by name and shape while it is built. What answers is a
// ParameterSource: a checkpoint (nn/checkpoint.h), a random initialiser for training, or a collector that only
// records names and shapes. So one constructor serves loading, training and the tests of tensor names.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace fpsa::nn {

/// How training initialises a parameter; loading ignores it.
struct Init {
  enum class Kind { kZeros, kOnes, kNormal, kUniform };
  Kind kind = Kind::kZeros;
  double scale = 0.0;  // standard deviation (kNormal) or half width (kUniform)

  static Init zeros() { return {Kind::kZeros, 0.0}; }
  static Init ones() { return {Kind::kOnes, 0.0}; }
  static Init normal(double stddev) { return {Kind::kNormal, stddev}; }
  static Init uniform(double half_width) { return {Kind::kUniform, half_width}; }
};

/// One parameter as a module declares it.
struct ParameterSpec {
  std::string name;  // full dotted name in the diffusers layout, e.g. "blocks.0.attn1.to_q.weight"
  std::vector<int64_t> shape;
  Init init;
  bool keep_f32 = false;  // stays F32 whatever the compute dtype (diffusers' _keep_in_fp32_modules)
};

/// A low-rank addition to a matrix: W + scale B A.
struct LowRank {
  at::Tensor a, b;  // [rank, in], [out, rank]
  double scale = 1.0;
};

/// Answers a module's requests for tensors. Implementations may defer errors to a report at the end.
class ParameterSource {
 public:
  virtual ~ParameterSource() = default;
  virtual at::Tensor get(const ParameterSpec& spec) = 0;
  /// What a linear layer adds to its weight of that name while an adapter is trained beside it; nothing by default.
  virtual std::optional<LowRank> low_rank(const ParameterSpec&) { return std::nullopt; }
};

/// A dotted prefix over a source: scope / "blocks" / 3 asks for names under "blocks.3.".
class Scope {
 public:
  explicit Scope(ParameterSource& source, std::string prefix = "") : source_(&source), prefix_(std::move(prefix)) {}

  Scope operator/(std::string_view name) const;
  Scope operator/(int64_t index) const { return *this / std::to_string(index); }

  at::Tensor param(std::string_view name, std::vector<int64_t> shape, Init init = Init::zeros(),
                   bool keep_f32 = false) const;
  /// ParameterSource::low_rank of the parameter of that name.
  std::optional<LowRank> low_rank(std::string_view name, std::vector<int64_t> shape) const;
  const std::string& prefix() const { return prefix_; }

 private:
  std::string full_name(std::string_view name) const;

  ParameterSource* source_;
  std::string prefix_;
};

/// Records what a module declares and hands out meta tensors: no memory, so a 14B config costs nothing.
class SpecCollector : public ParameterSource {
 public:
  at::Tensor get(const ParameterSpec& spec) override;
  std::vector<ParameterSpec> specs;
};

/// F32 leaf tensors that require gradients, drawn from one seeded generator in the order of the requests.
class RandomInit : public ParameterSource {
 public:
  explicit RandomInit(uint64_t seed);
  at::Tensor get(const ParameterSpec& spec) override;
  std::map<std::string, at::Tensor> tensors;  // by full name

 private:
  at::Generator generator_;
};

}  // namespace fpsa::nn
