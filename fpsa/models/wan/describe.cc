#include "fpsa/models/wan/describe.h"

#include <iomanip>
#include <optional>
#include <sstream>

#include "fpsa/base/check.h"
#include "fpsa/io/json.h"
#include "fpsa/models/wan/dit.h"
#include "fpsa/models/wan/opened_part.h"
#include "fpsa/models/wan/vae.h"
#include "fpsa/nn/checkpoint.h"

namespace fpsa::models::wan {
namespace fs = std::filesystem;
namespace {

// Holds what the module declares against what the files have.
template <class Module, class Config>
void check_tensors(const Config& config, const OpenedPart& part) {
  nn::SpecCollector declared;
  const Module module(config, nn::Scope(declared));
  nn::CheckpointReport report;
  std::set<std::string> known;
  for (const nn::ParameterSpec& spec : declared.specs) {
    known.insert(spec.name);
    const auto found = part.weights.tensors.find(spec.name);
    if (found == part.weights.tensors.end())
      report.missing.push_back(spec.name);
    else if (found->second.sizes() != at::IntArrayRef(spec.shape))
      report.mis_shaped.push_back({spec.name, join(at::IntArrayRef(spec.shape)), join(found->second.sizes())});
  }
  for (const auto& [name, tensor] : part.weights.tensors)
    if (!known.contains(name)) report.unexpected.push_back(name);
  FPSA_CHECK(report.ok(), part.origin(), ": the tensors do not fit the model", report.text());
}

nlohmann::json check_part(const OpenedPart& part) {
  switch (part.weights.found.part) {
    case Part::kTransformer: {
      const DitConfig config = dit_config_of(part);
      check_tensors<WanDit>(config, part);
      return config.to_json();
    }
    case Part::kVae: {
      const VaeConfig config = vae_config_of(part);
      check_tensors<WanVae>(config, part);
      return config.to_json();
    }
    case Part::kTextEncoder: {
      const Umt5Config config = text_config_of(part);
      check_tensors<Umt5Encoder>(config, part);
      return config.to_json();
    }
  }
  return {};
}

PartDescription describe_part(const PartFiles& files, Part part) {
  const OpenedPart opened = open_part(files, part);
  PartDescription out;
  out.part = part;
  out.source = files.weights;
  out.naming = opened.weights.found.naming;
  out.prefix = opened.weights.found.prefix;
  out.scaled = !opened.weights.scales.empty();
  out.metadata = opened.metadata;
  for (const auto& [name, tensor] : opened.weights.tensors) {
    ++out.tensors;
    out.parameters += tensor.numel();
    out.bytes += static_cast<int64_t>(tensor.nbytes());
    out.bytes_by_dtype[std::string(io::name_of(nn::io_dtype(tensor.scalar_type())))] +=
        static_cast<int64_t>(tensor.nbytes());
  }
  out.config = check_part(opened);
  return out;
}

// The part that a diffusers component folder (transformer/, vae/, text_encoder/) holds, by its config.
std::optional<Part> component_part(const fs::path& folder) {
  if (!fs::is_directory(folder) || !fs::exists(folder / "config.json")) return std::nullopt;
  const nlohmann::json config = io::read_json(folder / "config.json");
  if (!config.is_object()) return std::nullopt;
  const auto is = [&](const char* key, const char* value) { return config.contains(key) && config[key] == value; };
  if (is("_class_name", "WanTransformer3DModel")) return Part::kTransformer;
  if (is("_class_name", "AutoencoderKLWan")) return Part::kVae;
  if (is("model_type", "umt5")) return Part::kTextEncoder;
  return std::nullopt;
}

Part part_of_file(const fs::path& path) {
  const io::SafetensorsFile file = io::SafetensorsFile::open(path);
  std::set<std::string> names;
  for (const io::TensorEntry& entry : file.entries())
    names.insert(entry.name);
  refuse_unsupported(names, path.string());
  const auto found = recognise(names);
  FPSA_CHECK(found, path.string(), ": ", names.size(), " tensors, but not a part of a Wan2.1 model");
  return found->part;
}

}  // namespace

Description describe(const fs::path& path) {
  FPSA_CHECK(fs::exists(path), "cannot open '", path.string(), "': no such file or folder");
  if (fs::is_regular_file(path) && path.extension() == ".safetensors")
    return {path, "one part", {describe_part({path, {}}, part_of_file(path))}, {}};
  if (const auto part = component_part(path))
    return {path, "one part", {describe_part({path, path / "config.json"}, *part)}, {}};
  const ModelPlace place = find_model(path);
  Description out{place.root, std::string(name_of(place.layout)), {}, {}};
  for (const Part part : {Part::kTransformer, Part::kVae, Part::kTextEncoder}) {
    std::optional<PartFiles> files;
    try {
      files = find_part(place, part);
    } catch (const Error& error) {
      out.absent.push_back(error.what());
    }
    if (files) out.parts.push_back(describe_part(*files, part));
  }
  FPSA_CHECK(!out.parts.empty(), path.string(), ": no part of a Wan model was found: ", out.absent.front());
  return out;
}

std::string text_of(const Description& description) {
  std::ostringstream out;
  out << description.root.string() << ": " << description.layout << std::fixed << std::setprecision(1);
  for (const PartDescription& part : description.parts) {
    out << "\n  " << name_of(part.part) << ": " << part.tensors << " tensors, "
        << static_cast<double>(part.parameters) / 1e6 << " M parameters,";
    for (const auto& [dtype, bytes] : part.bytes_by_dtype)
      out << ' ' << static_cast<double>(bytes) / 1e6 << " MB " << dtype;
    out << (part.scaled ? " with scales" : "") << ", "
        << (part.naming == Naming::kDiffusers ? "diffusers' names" : "the original's names");
    if (!part.prefix.empty()) out << " behind '" << part.prefix << "'";
    out << "\n    " << part.source.string();
    for (const auto& [key, value] : part.metadata)
      out << "\n    " << key << ": " << value;
  }
  for (const std::string& reason : description.absent)
    out << "\n  absent: " << reason;
  return out.str();
}

}  // namespace fpsa::models::wan
