#include "fpsa/models/wan/describe.h"

#include <algorithm>
#include <iomanip>
#include <optional>
#include <sstream>

#include "fpsa/base/check.h"
#include "fpsa/models/wan/dit.h"
#include "fpsa/models/wan/opened_part.h"
#include "fpsa/models/wan/vae.h"
#include "fpsa/nn/checkpoint.h"

namespace fpsa::models::wan {
namespace fs = std::filesystem;
namespace {

// Holds what the module declares against what the files have, and counts what loading will make of it.
template <class Module, class Config>
WeightCount check_tensors(const Config& config, const OpenedPart& part) {
  nn::SpecCollector declared;
  const Module module(config, nn::Scope(declared));
  nn::CheckpointReport report;
  WeightCount count;
  std::set<std::string> known;
  for (const nn::ParameterSpec& spec : declared.specs) {
    known.insert(spec.name);
    const auto found = part.weights.tensors.find(spec.name);
    if (found == part.weights.tensors.end()) {
      report.missing.push_back(spec.name);
      continue;
    }
    const at::Tensor& tensor = found->second;
    if (tensor.sizes() != at::IntArrayRef(spec.shape))
      report.mis_shaped.push_back({spec.name, join(at::IntArrayRef(spec.shape)), join(tensor.sizes())});
    else if (!at::isFloatingType(tensor.scalar_type()))
      report.mis_shaped.push_back({spec.name, "a floating-point tensor", at::toString(tensor.scalar_type())});
    count.parameters += tensor.numel();
    if (spec.keep_f32) count.kept_f32 += tensor.numel();
    if (part.weights.scales.contains(spec.name)) count.largest_scaled = std::max(count.largest_scaled, tensor.numel());
  }
  for (const auto& [name, tensor] : part.weights.tensors)
    if (!known.contains(name)) report.unexpected.push_back(name);
  FPSA_CHECK(report.ok(), part.origin(), ": the tensors do not fit the model", report.text());
  return count;
}

// Checks the part's configuration and tensors.
template <class Module, class Config>
Config check_part(const Config& config, const OpenedPart& opened, PartDescription& out) {
  out.weights = check_tensors<Module>(config, opened);
  out.config = config.to_json();
  return config;
}

// The configurations of the parts seen so far, to hold against each other.
struct Configs {
  std::optional<DitConfig> dit;
  std::optional<VaeConfig> vae;
  std::optional<Umt5Config> text;
};

PartDescription describe_part(const OpenedPart& opened, Configs& configs) {
  PartDescription out;
  out.part = opened.weights.found.part;
  out.source = opened.files.weights;
  out.naming = opened.weights.found.naming;
  out.prefix = opened.weights.found.prefix;
  out.scaled = !opened.weights.scales.empty();
  out.metadata = opened.metadata;
  for (const auto& [name, tensor] : opened.weights.tensors) {
    ++out.tensors;
    out.bytes += static_cast<int64_t>(tensor.nbytes());
    out.bytes_by_dtype[std::string(io::name_of(nn::io_dtype(tensor.scalar_type())))] +=
        static_cast<int64_t>(tensor.nbytes());
  }
  switch (out.part) {
    case Part::kTransformer:
      configs.dit = check_part<WanDit>(dit_config_of(opened), opened, out);
      break;
    case Part::kVae:
      configs.vae = check_part<WanVae>(vae_config_of(opened), opened, out);
      break;
    case Part::kTextEncoder:
      configs.text = check_part<Umt5Encoder>(text_config_of(opened), opened, out);
      break;
  }
  return out;
}

Description describe_alone(const fs::path& path, Part part) {
  Configs configs;
  Description out;
  out.root = path;
  out.layout = "one part";
  out.parts.push_back(describe_part(open_part(part_at(path, part), part), configs));
  return out;
}

std::optional<Part> part_of_file(const fs::path& path) {
  const io::SafetensorsFile file = io::SafetensorsFile::open(path);
  std::set<std::string> names;
  for (const io::TensorEntry& entry : file.entries())
    names.insert(entry.name);
  refuse_unsupported(names, path.string());
  const auto found = recognise(names);
  FPSA_CHECK(found, path.string(), ": ", names.size(), " tensors, but not a part of a Wan2.1 model");
  return found->part;
}

// The sizes that tell models of one family apart.
std::string config_text(const PartDescription& part) {
  switch (part.part) {
    case Part::kTransformer: {
      const DitConfig c = DitConfig::from_json(part.config);
      return join(c.num_layers, " layers, ", c.num_attention_heads, " heads of ", c.attention_head_dim,
                  ", feed-forward ", c.ffn_dim, ", patch (", c.patch_size[0], ",", c.patch_size[1], ",",
                  c.patch_size[2], ")");
    }
    case Part::kVae: {
      const VaeConfig c = VaeConfig::from_json(part.config);
      return join(c.z_dim, " latent channels, ", c.temporal_factor(), "x", c.spatial_factor(), "x", c.spatial_factor(),
                  " compression");
    }
    case Part::kTextEncoder: {
      const Umt5Config c = Umt5Config::from_json(part.config);
      return join(c.num_layers, " layers, ", c.num_heads, " heads of ", c.d_kv, ", states of ", c.d_model, ", ",
                  c.vocab_size, " ids");
    }
  }
  return {};
}

}  // namespace

const PartDescription* Description::find(Part part) const {
  for (const PartDescription& candidate : parts)
    if (candidate.part == part) return &candidate;
  return nullptr;
}

Description describe_model(const ModelPlace& place, const PartPaths& named, bool with_text) {
  Description out;
  out.root = place.root;
  out.layout = name_of(place.layout);
  Configs configs;
  std::optional<Tokenizer> tokenizer;
  for (const Part part : {Part::kTransformer, Part::kVae, Part::kTextEncoder}) {
    if (part == Part::kTextEncoder && !with_text) continue;
    PartFiles files;
    try {
      files = find_part(place, part, named);
    } catch (const MissingPart& error) {
      out.absent[part] = error.what();
      continue;
    }
    const OpenedPart opened = open_part(files, part);
    out.parts.push_back(describe_part(opened, configs));
    if (part == Part::kTextEncoder) {
      try {
        tokenizer = load_tokenizer(place, named, opened);
      } catch (const MissingPart& error) {
        out.no_tokenizer = error.what();
      }
    }
  }
  const auto pointer = [](auto& value) { return value ? &*value : nullptr; };
  check_fit(place.root.string(), pointer(configs.dit), pointer(configs.vae), pointer(configs.text), pointer(tokenizer));
  return out;
}

Description describe(const fs::path& path, const PartPaths& named) {
  FPSA_CHECK(fs::exists(path), "cannot open '", path.string(), "': no such file or folder");
  const bool is_file = fs::is_regular_file(path) && path.extension() == ".safetensors";
  if (const auto alone = is_file ? part_of_file(path) : configured_part(path)) {
    FPSA_CHECK(named.vae.empty() && named.text_encoder.empty() && named.tokenizer.empty(), path.string(),
               ": expected a model's folder beside the paths of other parts, received the ", name_of(*alone), " alone");
    return describe_alone(path, *alone);
  }
  Description out = describe_model(find_model(path), named);
  FPSA_CHECK(!out.parts.empty(), path.string(), ": no part of a Wan model was found: ", out.absent.begin()->second);
  return out;
}

std::string metadata_text(const std::string& value) {
  constexpr size_t shown = 400;
  return value.size() > shown ? value.substr(0, shown) + " ..." : value;
}

std::string text_of(const Description& description) {
  std::ostringstream out;
  out << description.root.string() << ": " << description.layout << std::fixed << std::setprecision(1);
  for (const PartDescription& part : description.parts) {
    out << "\n  " << name_of(part.part) << ": " << config_text(part) << "\n    " << part.tensors << " tensors, "
        << static_cast<double>(part.weights.parameters) / 1e6 << " M parameters,";
    for (const auto& [dtype, bytes] : part.bytes_by_dtype)
      out << ' ' << static_cast<double>(bytes) / 1e6 << " MB " << dtype;
    out << (part.scaled ? " with scales" : "") << ", "
        << (part.naming == Naming::kDiffusers ? "diffusers' names" : "the original's names");
    if (!part.prefix.empty()) out << " behind '" << part.prefix << "'";
    out << "\n    " << part.source.string();
    for (const auto& [key, value] : part.metadata)
      out << "\n    metadata " << key << ": " << metadata_text(value);
  }
  for (const auto& [part, reason] : description.absent)
    out << "\n  absent: " << reason;
  if (!description.no_tokenizer.empty()) out << "\n  absent: " << description.no_tokenizer;
  return out.str();
}

}  // namespace fpsa::models::wan
