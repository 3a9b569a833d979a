#include "fpsa/models/wan/opened_part.h"

#include "fpsa/base/check.h"
#include "fpsa/io/json.h"
#include "fpsa/models/wan/deduce.h"

namespace fpsa::models::wan {
namespace {

bool is_original(const nlohmann::json& config) {
  return config.is_object() && config.contains("dim");
}

// Errors of a config reader name the key; this adds the file.
template <class Read>
auto with_origin(const std::filesystem::path& file, Read read) {
  try {
    return read();
  } catch (const Error& error) {
    throw Error(join(file.string(), ": ", error.what()));
  }
}

}  // namespace

std::string_view checkpoint_stem(const PartFiles& files, Part part) {
  return part == Part::kTransformer && std::filesystem::is_directory(files.weights) ? "diffusion_pytorch_model" : "";
}

OpenedPart open_part(const PartFiles& files, Part part) {
  nn::LoadedTensors loaded = nn::load_tensors(files.weights, checkpoint_stem(files, part));
  OpenedPart opened;
  opened.files = files;
  opened.weights = rename_part(std::move(loaded.tensors), part, files.weights.string());
  opened.metadata = std::move(loaded.metadata);
  if (!files.config.empty()) opened.config = io::read_json(files.config);
  return opened;
}

DitConfig dit_config_of(const OpenedPart& part) {
  if (part.config.is_null()) return deduce_dit_config(part.weights.tensors, part.origin());
  if (is_original(part.config)) return dit_config_from_original(part.config, part.files.config.string());
  DitConfig config = with_origin(part.files.config, [&] { return DitConfig::from_json(part.config); });
  refuse_unsupported_sizes(config, part.files.config.string());
  return config;
}

VaeConfig vae_config_of(const OpenedPart& part) {
  if (part.config.is_null()) return deduce_vae_config(part.weights.tensors, part.origin());
  return with_origin(part.files.config, [&] { return VaeConfig::from_json(part.config); });
}

Umt5Config text_config_of(const OpenedPart& part) {
  if (part.config.is_null()) return deduce_text_config(part.weights.tensors, part.origin());
  return with_origin(part.files.config, [&] { return Umt5Config::from_json(part.config); });
}

}  // namespace fpsa::models::wan
