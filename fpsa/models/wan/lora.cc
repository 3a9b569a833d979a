#include "fpsa/models/wan/lora.h"

#include <cctype>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>

#include "fpsa/base/check.h"
#include "fpsa/io/json.h"
#include "fpsa/models/wan/dit.h"
#include "fpsa/models/wan/weight_map.h"
#include "fpsa/nn/tensor_map.h"

namespace fpsa::models::wan {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using Shapes = std::map<std::string, std::vector<int64_t>>;

enum class Role { kA, kB, kAlpha, kBias, kWeightDiff, kBiasDiff };

struct Suffix {
  std::string_view text;
  Role role;
};
// Longer ones before their own tails. ".default" is the name that PEFT gives an adapter without one.
constexpr Suffix kSuffixes[] = {
    {".lora_A.default.weight", Role::kA}, {".lora_B.default.weight", Role::kB}, {".lora_A.weight", Role::kA},
    {".lora_B.weight", Role::kB},         {".lora_down.weight", Role::kA},      {".lora_up.weight", Role::kB},
    {".lora.down.weight", Role::kA},      {".lora.up.weight", Role::kB},        {".lora_B.bias", Role::kBias},
    {".diff_b", Role::kBiasDiff},         {".diff", Role::kWeightDiff},         {".alpha", Role::kAlpha},
};
constexpr std::string_view kPrefixes[] = {"base_model.model.", "model.diffusion_model.", "diffusion_model.",
                                          "transformer."};

// "blocks_0_self_attn_q" -> "blocks.0.self_attn.q": names in which every dot became an underscore.
std::string with_dots(std::string_view flat) {
  std::string out;
  size_t at = 0;
  const auto take = [&](std::string_view text, std::string_view dotted) {
    if (!flat.substr(at).starts_with(text)) return false;
    out += dotted;
    at += text.size();
    return true;
  };
  if (!take("blocks_", "blocks.")) return std::string(flat);
  while (at < flat.size() && std::isdigit(static_cast<unsigned char>(flat[at])))
    out += flat[at++];
  take("_self_attn_", ".self_attn.") || take("_cross_attn_", ".cross_attn.") || take("_ffn_", ".ffn.");
  return out + std::string(flat.substr(at));
}

// The module of a key by diffusers' name.
std::string module_of(std::string_view name) {
  for (const std::string_view prefix : kPrefixes)
    if (name.starts_with(prefix)) name.remove_prefix(prefix.size());
  constexpr std::string_view kFlat = "lora_unet_";
  const std::string dotted = name.starts_with(kFlat) ? with_dots(name.substr(kFlat.size())) : std::string(name);
  const std::string weight = transformer_name(dotted + ".weight");
  return weight.substr(0, weight.size() - std::string_view(".weight").size());
}

std::optional<std::pair<std::string, Role>> parse_key(std::string_view key) {
  for (const Suffix& suffix : kSuffixes)
    if (key.ends_with(suffix.text))
      return std::pair(module_of(key.substr(0, key.size() - suffix.text.size())), suffix.role);
  return std::nullopt;
}

// PEFT's configuration of an adapter, where a file says it: in its metadata (diffusers) or beside it (PEFT).
struct AdapterConfig {
  std::optional<double> alpha;
  std::map<std::string, double> alpha_pattern;  // for modules whose name is or ends with the key
  bool rank_stabilised = false;                 // alpha / sqrt(rank)

  double scale_of(const std::string& module, int64_t rank) const {
    double value = alpha.value_or(static_cast<double>(rank));
    for (const auto& [name, own] : alpha_pattern)
      if (module == name || module.ends_with("." + name)) value = own;
    return value / (rank_stabilised ? std::sqrt(static_cast<double>(rank)) : static_cast<double>(rank));
  }
};

AdapterConfig parse_config(const json& stored, const std::string& prefix, const std::string& origin) {
  AdapterConfig config;
  FPSA_CHECK(stored.is_object(), origin, ": expected a JSON object with the adapter's configuration");
  const auto field = [&](const char* name) { return stored.value(prefix + name, json()); };
  if (const json alpha = field("lora_alpha"); alpha.is_number()) config.alpha = alpha.get<double>();
  if (const json patterns = field("alpha_pattern"); patterns.is_object())
    for (const auto& [name, alpha] : patterns.items()) {
      FPSA_CHECK(alpha.is_number(), origin, ": alpha_pattern: expected numbers, received ", alpha.type_name());
      config.alpha_pattern[name] = alpha.get<double>();
    }
  config.rank_stabilised = field("use_rslora") == true;
  FPSA_CHECK(field("use_dora") != true, origin, ": the adapter is a DoRA, which is not supported; expected a LoRA");
  return config;
}

AdapterConfig config_of(const fs::path& file, const std::map<std::string, std::string>& metadata) {
  if (const auto packed = metadata.find("lora_adapter_metadata"); packed != metadata.end())
    return parse_config(io::parse_json(packed->second, file.string()), "transformer.", file.string());
  const fs::path beside = file.parent_path() / "adapter_config.json";
  if (file.filename() == "adapter_model.safetensors" && fs::exists(beside))
    return parse_config(io::read_json(beside), "", beside.string());
  return {};
}

fs::path file_of(const fs::path& path) {
  if (!fs::is_directory(path)) return path;
  for (const char* name : {"pytorch_lora_weights.safetensors", "adapter_model.safetensors"})
    if (fs::exists(path / name)) return path / name;
  throw Error(join("the LoRA folder '", path.string(),
                   "': expected pytorch_lora_weights.safetensors or adapter_model.safetensors in it, found neither"));
}

// What one file says about one module.
struct Adapter {
  at::Tensor a, b, alpha, bias, weight_diff, bias_diff;
};

// The file's adapters, and the faults that make it unusable.
class Reader {
 public:
  Reader(const LoraFile& file, const Shapes& shapes) : scale_(file.scale), path_(file_of(file.path)), shapes_(shapes) {}

  void add_to(nn::WeightDeltas& deltas) {
    const nn::LoadedTensors loaded = nn::load_tensors(path_);
    config_ = config_of(path_, loaded.metadata);
    std::map<std::string, Adapter> adapters;
    for (const auto& [key, tensor] : loaded.tensors)
      sort(key, tensor, adapters);
    for (const auto& [module, adapter] : adapters)
      convert(module, adapter, deltas);
    FPSA_CHECK(faults_.empty(), path_.string(), ": the LoRA does not fit the transformer", faults_);
    FPSA_CHECK(!adapters.empty(), path_.string(), ": expected LoRA tensors, found none");
  }

 private:
  template <class... Parts>
  void fault(const Parts&... parts) {
    faults_ += join("\n  ", parts...);
  }

  void sort(const std::string& key, const at::Tensor& tensor, std::map<std::string, Adapter>& adapters) {
    const auto parsed = parse_key(key);
    if (!parsed) return fault(key, ": unmatched, it does not end as LoRA keys do");
    const auto& [module, role] = *parsed;
    const bool of_bias = role == Role::kBias || role == Role::kBiasDiff;
    const std::string parameter = module + (of_bias ? ".bias" : ".weight");
    if (!shapes_.contains(parameter)) return fault(key, ": unmatched, this transformer has no '", parameter, "'");
    if (!at::isFloatingType(tensor.scalar_type()))
      return fault(key, ": expected floating-point numbers, received ", at::toString(tensor.scalar_type()));
    if (role == Role::kAlpha && tensor.numel() != 1)
      return fault(key, ": expected one number, received ", tensor.sizes());
    if ((role == Role::kA || role == Role::kB) && tensor.dim() < 2)
      return fault(key, ": expected a matrix, received ", tensor.sizes());
    Adapter& adapter = adapters[module];
    at::Tensor* const places[] = {&adapter.a,    &adapter.b,           &adapter.alpha,
                                  &adapter.bias, &adapter.weight_diff, &adapter.bias_diff};
    at::Tensor& place = *places[static_cast<int>(role)];
    if (place.defined()) return fault(key, ": a second tensor for the same part of '", module, "'");
    place = tensor;
  }

  void convert(const std::string& module, const Adapter& adapter, nn::WeightDeltas& deltas) {
    const std::string weight = module + ".weight", bias = module + ".bias";
    if (adapter.a.defined() != adapter.b.defined())
      fault(module, ": half of the adapter is missing, expected lora_A (lora_down) and lora_B (lora_up), found ",
            adapter.a.defined() ? "lora_A" : "lora_B", " alone");
    else if (adapter.a.defined())
      add_low_rank(module, adapter, deltas[weight]);
    else if (adapter.alpha.defined())
      fault(module, ": an alpha without lora_A and lora_B");
    // PEFT scales lora_B with its bias; alone it has no rank to be scaled by.
    if (adapter.bias.defined())
      add_whole(bias, adapter.bias, adapter.a.defined() ? adapter_scale(module, adapter) : 1.0, deltas);
    if (adapter.weight_diff.defined()) add_whole(weight, adapter.weight_diff, 1.0, deltas);
    if (adapter.bias_diff.defined()) add_whole(bias, adapter.bias_diff, 1.0, deltas);
  }

  // alpha / rank, of the file's own alpha or of its configuration.
  double adapter_scale(const std::string& module, const Adapter& adapter) const {
    const int64_t rank = adapter.a.size(0);
    if (!adapter.alpha.defined()) return config_.scale_of(module, rank);
    return adapter.alpha.item().toDouble() / static_cast<double>(rank);
  }

  void add_low_rank(const std::string& module, const Adapter& adapter, std::vector<nn::WeightDelta>& list) {
    const at::IntArrayRef shape = shapes_.at(module + ".weight");
    const at::Tensor &a = adapter.a, &b = adapter.b;
    const int64_t out = shape[0], in = shape.size() < 2 ? 0 : c10::multiply_integers(shape.slice(1));
    if (a.numel() == 0 || b.numel() == 0 || a.size(0) * in != a.numel() || b.size(0) != out ||
        b.numel() != out * a.size(0))
      return fault(module, ": expected lora_A [rank, ", in, "] and lora_B [", out, ", rank], received ", a.sizes(),
                   " and ", b.sizes());
    list.push_back({{a, b, scale_ * adapter_scale(module, adapter)}, {}});
  }

  void add_whole(const std::string& parameter, const at::Tensor& difference, double scale, nn::WeightDeltas& deltas) {
    const at::IntArrayRef shape = shapes_.at(parameter);
    if (difference.sizes() != shape)
      return fault(parameter, ": expected a difference of shape ", shape, ", received ", difference.sizes());
    deltas[parameter].push_back({{{}, {}, scale_ * scale}, difference});
  }

  double scale_;
  fs::path path_;
  const Shapes& shapes_;
  AdapterConfig config_;
  std::string faults_;
};

}  // namespace

nn::WeightDeltas read_loras(const std::vector<LoraFile>& files, const DitConfig& config) {
  nn::WeightDeltas deltas;
  if (files.empty()) return deltas;
  nn::SpecCollector collector;
  const WanDit dit(config, nn::Scope(collector));
  Shapes shapes;
  for (const nn::ParameterSpec& spec : collector.specs)
    shapes.emplace(spec.name, spec.shape);
  for (const LoraFile& file : files)
    Reader(file, shapes).add_to(deltas);
  return deltas;
}

std::map<std::string, std::string> lora_metadata(const LoraFile& file) {
  return nn::load_tensors(file_of(file.path)).metadata;
}

}  // namespace fpsa::models::wan
