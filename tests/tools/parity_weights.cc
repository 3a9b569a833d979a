// Parity cases of the loader: which names the modules declare, and how original names are mapped onto them.

#include "fpsa/base/check.h"
#include "fpsa/models/wan/dit.h"
#include "fpsa/models/wan/text_encoder.h"
#include "fpsa/models/wan/vae.h"
#include "fpsa/models/wan/weight_map.h"
#include "tests/tools/parity.h"

namespace fpsa::parity {
namespace {

using namespace models::wan;

Part part_of(const nlohmann::json& config) {
  const std::string name = config.at("part");
  for (const Part part : {Part::kTransformer, Part::kVae, Part::kTextEncoder})
    if (name_of(part) == name) return part;
  throw Error(join("unknown part '", name, "'"));
}

template <class Module, class Config>
std::vector<nn::ParameterSpec> specs(const nlohmann::json& json) {
  nn::SpecCollector source;
  Module module(Config::from_json(json), nn::Scope(source));
  return source.specs;
}

// {"part", "config"} -> for each declared tensor its shape, as I64
void declared(const nlohmann::json& config, const nn::TensorMap&, nn::TensorMap& out) {
  const nlohmann::json& json = config.at("config");
  std::vector<nn::ParameterSpec> all;
  switch (part_of(config)) {
    case Part::kTransformer:
      all = specs<WanDit, DitConfig>(json);
      break;
    case Part::kVae:
      all = specs<WanVae, VaeConfig>(json);
      break;
    case Part::kTextEncoder:
      all = specs<Umt5Encoder, Umt5Config>(json);
      break;
  }
  for (const nn::ParameterSpec& spec : all)
    out[spec.name] = at::tensor(spec.shape, at::kLong);
}

// {"part"}, tensors of any values under original names -> the same under the names the modules declare
void renamed(const nlohmann::json& config, const nn::TensorMap& in, nn::TensorMap& out) {
  out = rename_part(in, part_of(config), "in.safetensors").tensors;
}

const ParityCase declared_case("weights.declared", declared);
const ParityCase renamed_case("weights.renamed", renamed);

}  // namespace
}  // namespace fpsa::parity
