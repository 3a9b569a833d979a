// Registry of parity cases: each runs one piece of the engine on tensors that a Python oracle wrote, so that the
// oracle can compare. Used by the binary fpsa_parity and nothing else.
#pragma once

#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "fpsa/nn/parameters.h"
#include "fpsa/nn/tensor_map.h"

namespace fpsa::parity {

/// Runs one case: reads `config` and `in`, fills `out`.
using Run = std::function<void(const nlohmann::json& config, const nn::TensorMap& in, nn::TensorMap& out)>;

/// All registered cases by name.
std::map<std::string, Run>& cases();

/// Registers a case; one static object per case, in tests/tools/parity_<room>.cc.
struct ParityCase {
  ParityCase(const std::string& name, Run run);
};

/// Serves the tensors of a map whose names begin with `prefix` as a model's parameters, in their stored dtype.
/// finish() throws with the names of tensors that nobody asked for.
class MapSource : public nn::ParameterSource {
 public:
  explicit MapSource(const nn::TensorMap& tensors, std::string prefix = "weights.", bool requires_grad = false);
  at::Tensor get(const nn::ParameterSpec& spec) override;
  void finish() const;
  nn::TensorMap served;  // by the name the model asked for

 private:
  const nn::TensorMap& tensors_;
  std::string prefix_;
  bool requires_grad_;
};

/// The tensor `name` of `in`; throws fpsa::Error naming it when it is missing.
const at::Tensor& need(const nn::TensorMap& in, const std::string& name);

}  // namespace fpsa::parity
