#include "fpsa/nn/parameters.h"

#include <ATen/CPUGeneratorImpl.h>

#include "fpsa/base/check.h"

namespace fpsa::nn {

std::string Scope::full_name(std::string_view name) const {
  return prefix_.empty() ? std::string(name) : prefix_ + "." + std::string(name);
}

Scope Scope::operator/(std::string_view name) const {
  return Scope(*source_, full_name(name));
}

at::Tensor Scope::param(std::string_view name, std::vector<int64_t> shape, Init init, bool keep_f32) const {
  ParameterSpec spec;
  spec.name = full_name(name);
  spec.shape = std::move(shape);
  spec.init = init;
  spec.keep_f32 = keep_f32;
  return source_->get(spec);
}

std::optional<LowRank> Scope::low_rank(std::string_view name, std::vector<int64_t> shape) const {
  ParameterSpec spec;
  spec.name = full_name(name);
  spec.shape = std::move(shape);
  return source_->low_rank(spec);
}

at::Tensor SpecCollector::get(const ParameterSpec& spec) {
  specs.push_back(spec);
  return at::empty(spec.shape, at::TensorOptions().dtype(at::kFloat).device(at::kMeta));
}

RandomInit::RandomInit(uint64_t seed) : generator_(at::detail::createCPUGenerator(seed)) {}

at::Tensor RandomInit::get(const ParameterSpec& spec) {
  FPSA_CHECK(!tensors.contains(spec.name), "parameter '", spec.name, "' is declared twice by the model");
  at::Tensor t = at::empty(spec.shape, at::kFloat);
  switch (spec.init.kind) {
    case Init::Kind::kZeros:
      t.zero_();
      break;
    case Init::Kind::kOnes:
      t.fill_(1.0);
      break;
    case Init::Kind::kNormal:
      t.normal_(0.0, spec.init.scale, generator_);
      break;
    case Init::Kind::kUniform:
      t.uniform_(-spec.init.scale, spec.init.scale, generator_);
      break;
  }
  t.requires_grad_(true);
  tensors.emplace(spec.name, t);
  return t;
}

}  // namespace fpsa::nn
