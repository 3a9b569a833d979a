#include "fpsa/train/lora.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "fpsa/base/check.h"

namespace fpsa::train {
namespace {

constexpr std::string_view kWeight = ".weight";

std::string module_of(const std::string& parameter) {
  return parameter.substr(0, parameter.size() - kWeight.size());
}

// PEFT's rule: the whole name, or its last parts.
bool is_target(const std::string& module, const std::string& target) {
  return module == target || module.ends_with("." + target);
}

// "blocks.3.attn1.to_out.0" -> "attn1.to_out.0": what a recipe would name.
std::string without_layer(const std::string& module) {
  if (!module.starts_with("blocks.")) return module;
  return module.substr(module.find('.', std::string("blocks.").size()) + 1);
}

}  // namespace

AdapterSource::AdapterSource(nn::ParameterSource& base, const LoraConfig& config, std::string prefix, uint64_t seed)
    : base_(base), config_(config), prefix_(std::move(prefix)), init_(seed) {}

std::optional<nn::LowRank> AdapterSource::low_rank(const nn::ParameterSpec& spec) {
  const std::string module = module_of(spec.name);
  names_.insert(without_layer(module));
  bool wanted = false;
  for (const std::string& target : config_.targets)
    if (is_target(module, target)) matched_.insert(target), wanted = true;
  if (!wanted) return std::nullopt;
  const int64_t out = spec.shape[0], in = spec.shape[1];
  FPSA_CHECK(config_.rank <= std::min(in, out), "lora.rank: expected at most ", std::min(in, out), ", the size of '",
             module, "', received ", config_.rank);
  nn::LowRank adapter;
  adapter.a = init_.get({.name = prefix_ + module + ".lora_A.weight",
                         .shape = {config_.rank, in},
                         .init = nn::Init::uniform(1 / std::sqrt(static_cast<double>(in)))});
  adapter.b =
      init_.get({.name = prefix_ + module + ".lora_B.weight", .shape = {out, config_.rank}, .init = nn::Init::zeros()});
  adapter.scale = config_.alpha / static_cast<double>(config_.rank);
  return adapter;
}

const nn::TensorMap& AdapterSource::finish() const {
  std::string unknown, known;
  for (const std::string& target : config_.targets)
    if (!matched_.contains(target)) unknown += join(unknown.empty() ? "" : ", ", "'", target, "'");
  for (const std::string& name : names_)
    known += join(known.empty() ? "" : ", ", name);
  FPSA_CHECK(unknown.empty(), "lora.targets: no layer is named ", unknown, "; expected some of ", known,
             ", or their last parts");
  return init_.tensors;
}

void write_lora(const std::filesystem::path& file, const nn::TensorMap& adapters, const LoraConfig& config,
                const std::optional<schedule::Schedule>& schedule) {
  FPSA_CHECK(!adapters.empty(), "cannot write ", file, ": expected adapters, received none");
  nn::TensorMap tensors;
  for (const auto& [name, tensor] : adapters) {
    const bool a = name.ends_with(".lora_A.weight"), b = name.ends_with(".lora_B.weight");
    FPSA_CHECK((a || b) && tensor.dim() == 2 && tensor.size(a ? 0 : 1) == config.rank, "cannot write ", file, ": '",
               name, "' of shape ", tensor.sizes(), " is no half of an adapter of rank ", config.rank);
    tensors.emplace(name, tensor.detach().to(at::kFloat).contiguous());
  }
  // diffusers packs PEFT's configuration under the name of the component.
  const nlohmann::json adapter = {{"transformer.r", config.rank},
                                  {"transformer.lora_alpha", config.alpha},
                                  {"transformer.target_modules", config.targets}};
  std::map<std::string, std::string> metadata = {{"format", "pt"}, {"lora_adapter_metadata", adapter.dump(2)}};
  if (schedule) metadata.emplace(schedule::kMetadataKey, schedule::to_toml(*schedule));
  nn::save_tensors(file, tensors, metadata);
}

}  // namespace fpsa::train
