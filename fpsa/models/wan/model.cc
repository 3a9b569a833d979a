#include "fpsa/models/wan/model.h"

#include "fpsa/base/check.h"
#include "fpsa/models/wan/opened_part.h"
#include "fpsa/nn/checkpoint.h"
#include "fpsa/nn/merging_source.h"

namespace fpsa::models::wan {
namespace fs = std::filesystem;
namespace {

template <class Module, class Config>
std::unique_ptr<Module> build(OpenedPart part, const Config& config, const PartOptions& options, LoadedPart* report,
                              const nn::WeightDeltas& deltas = {}) {
  LoadedPart loaded;
  loaded.part = part.weights.found.part;
  loaded.source = part.files.weights;
  loaded.naming = part.weights.found.naming;
  for (const auto& [name, tensor] : part.weights.tensors)
    loaded.parameters += tensor.numel();
  loaded.weight_bytes = loaded.parameters * static_cast<int64_t>(c10::elementSize(options.dtype));
  nn::CheckpointSource source(std::move(part.weights.tensors), options.dtype, part.origin(),
                              std::move(part.weights.scales), options.device);
  nn::MergingSource merged(source, deltas, options.dtype);
  auto module = std::make_unique<Module>(config, nn::Scope(merged));
  loaded.converted_bytes = source.finish().converted_bytes;
  if (report) *report = loaded;
  return module;
}

std::unique_ptr<WanDit> build_transformer(OpenedPart part, const PartOptions& options, LoadedPart* report,
                                          const std::vector<LoraFile>& loras = {}) {
  const DitConfig config = dit_config_of(part);
  return build<WanDit>(std::move(part), config, options, report, read_loras(loras, config));
}

std::unique_ptr<Umt5Encoder> build_text_encoder(OpenedPart part, const PartOptions& options, LoadedPart* report) {
  const Umt5Config config = text_config_of(part);
  return build<Umt5Encoder>(std::move(part), config, options, report);
}

}  // namespace

std::unique_ptr<WanDit> load_transformer(const PartFiles& files, const PartOptions& options, LoadedPart* report) {
  return build_transformer(open_part(files, Part::kTransformer), options, report);
}

std::unique_ptr<WanVae> load_vae(const PartFiles& files, const PartOptions& options, LoadedPart* report) {
  OpenedPart part = open_part(files, Part::kVae);
  const VaeConfig config = vae_config_of(part);
  return build<WanVae>(std::move(part), config, options, report);
}

std::unique_ptr<Umt5Encoder> load_text_encoder(const PartFiles& files, const PartOptions& options, LoadedPart* report) {
  return build_text_encoder(open_part(files, Part::kTextEncoder), options, report);
}

WanModel load_model(const fs::path& path, const LoadOptions& options) {
  const ModelPlace place = find_model(path);
  WanModel model;
  model.layout = place.layout;
  model.root = place.root;
  // The transformer's headers first: a model that is refused is refused before gigabytes of text encoder are converted.
  OpenedPart transformer;
  if (options.transformer) {
    transformer = open_part(find_part(place, Part::kTransformer), Part::kTransformer);
    dit_config_of(transformer);
  }
  LoadedPart report;
  if (options.vae) {
    const PartFiles files = find_part(place, Part::kVae, options.paths);
    model.vae = load_vae(files, {options.vae_dtype, options.device}, &report);
    model.parts.push_back(report);
  }
  if (options.text_encoder) {
    OpenedPart part = open_part(find_part(place, Part::kTextEncoder, options.paths), Part::kTextEncoder);
    model.tokenizer = std::make_unique<Tokenizer>(load_tokenizer(place, options.paths, part));
    model.text_encoder = build_text_encoder(std::move(part), {options.text_dtype, options.device}, &report);
    model.parts.push_back(report);
  }
  if (options.transformer) {
    model.metadata = transformer.metadata;
    model.transformer =
        build_transformer(std::move(transformer), {options.dtype, options.device}, &report, options.loras);
    model.parts.push_back(report);
  }
  const auto config_of = [](const auto& module) { return module ? &module->config() : nullptr; };
  check_fit(place.root.string(), config_of(model.transformer), config_of(model.vae), config_of(model.text_encoder),
            model.tokenizer.get());
  return model;
}

}  // namespace fpsa::models::wan
