#include "fpsa/models/wan/model.h"

#include <cmath>
#include <iomanip>
#include <sstream>

#include "fpsa/base/check.h"
#include "fpsa/io/json.h"
#include "fpsa/models/wan/opened_part.h"
#include "fpsa/nn/checkpoint.h"

namespace fpsa::models::wan {
namespace fs = std::filesystem;
namespace {

// The original repository's default for text-to-video; diffusers folders bring their own.
constexpr double kOriginalFlowShift = 5.0;
constexpr const char* kScheduleKey = "fpsa.schedule";

template <class Module, class Config>
std::unique_ptr<Module> build(OpenedPart part, const Config& config, const PartOptions& options, LoadedPart* report) {
  LoadedPart loaded;
  loaded.part = part.weights.found.part;
  loaded.source = part.files.weights;
  loaded.naming = part.weights.found.naming;
  for (const auto& [name, tensor] : part.weights.tensors)
    loaded.parameters += tensor.numel();
  loaded.weight_bytes = loaded.parameters * static_cast<int64_t>(c10::elementSize(options.dtype));
  nn::CheckpointSource source(std::move(part.weights.tensors), options.dtype, part.origin(),
                              std::move(part.weights.scales), options.device);
  auto module = std::make_unique<Module>(config, nn::Scope(source));
  loaded.converted_bytes = source.finish().converted_bytes;
  if (report) *report = loaded;
  return module;
}

PartFiles override_or_find(const fs::path& given, const ModelPlace& place, Part part) {
  if (given.empty()) return find_part(place, part);
  FPSA_CHECK(fs::exists(given), "the ", name_of(part), ": '", given.string(), "' does not exist");
  const fs::path config = given / "config.json";
  return {given, fs::is_directory(given) && fs::exists(config) ? config : fs::path()};
}

void check_fit(const WanModel& model) {
  if (model.transformer && model.vae) {
    const int64_t channels = model.transformer->config().in_channels, z = model.vae->config().z_dim;
    FPSA_CHECK(channels == z, model.root.string(), ": the transformer works on ", channels,
               " latent channels, the VAE on ", z, "; they belong to different models");
  }
  if (model.transformer && model.text_encoder) {
    const int64_t expected = model.transformer->config().text_dim, d_model = model.text_encoder->config().d_model;
    FPSA_CHECK(expected == d_model, model.root.string(), ": the transformer expects text states of width ", expected,
               ", the text encoder gives ", d_model, "; they belong to different models");
  }
  if (model.tokenizer && model.text_encoder) {
    const int64_t ids = model.tokenizer->vocab_size(), rows = model.text_encoder->config().vocab_size;
    FPSA_CHECK(ids <= rows, model.root.string(), ": the tokenizer has ", ids, " pieces, the text encoder ", rows,
               " embeddings; they belong to different models");
  }
}

Tokenizer load_tokenizer(const LoadOptions& options, const ModelPlace& place, const OpenedPart& text) {
  const fs::path path = options.tokenizer_path.empty() ? find_tokenizer(place) : options.tokenizer_path;
  if (!path.empty()) return Tokenizer::load(path);
  const at::Tensor& carried = text.weights.spiece_model;
  FPSA_CHECK(carried.defined(), place.root.string(), ": no tokenizer here (tokenizer/spiece.model, google/umt5-xxl/, ",
             "text_encoders/spiece.model), and the text encoder's file carries none; download UMT5's tokenizer folder ",
             "and name it");
  return Tokenizer::parse({static_cast<const char*>(carried.const_data_ptr()), carried.nbytes()},
                          text.origin() + ", tensor 'spiece_model'");
}

std::unique_ptr<WanDit> build_transformer(OpenedPart part, const PartOptions& options, LoadedPart* report,
                                          std::string* schedule) {
  const DitConfig config = dit_config_of(part);
  const auto carried = part.metadata.find(kScheduleKey);
  if (schedule) *schedule = carried == part.metadata.end() ? std::string() : carried->second;
  return build<WanDit>(std::move(part), config, options, report);
}

std::unique_ptr<Umt5Encoder> build_text_encoder(OpenedPart part, const PartOptions& options, LoadedPart* report) {
  const Umt5Config config = text_config_of(part);
  return build<Umt5Encoder>(std::move(part), config, options, report);
}

}  // namespace

SchedulerConfig SchedulerConfig::from_json(const nlohmann::json& json, const std::string& origin) {
  FPSA_CHECK(json.is_object(), origin, ": expected a JSON object");
  SchedulerConfig config;
  config.json = json;
  const auto number = [&](const char* key, double fallback) {
    if (!json.contains(key) || json[key].is_null()) return fallback;
    FPSA_CHECK(json[key].is_number(), origin, ": '", key, "' must be a number, received ", json[key].dump());
    return json[key].get<double>();
  };
  const auto text = [&](const char* key, const char* fallback) {
    if (!json.contains(key) || json[key].is_null()) return std::string(fallback);
    FPSA_CHECK(json[key].is_string(), origin, ": '", key, "' must be a string, received ", json[key].dump());
    return json[key].get<std::string>();
  };
  config.class_name = text("_class_name", "UniPCMultistepScheduler");
  const bool euler = config.class_name == "FlowMatchEulerDiscreteScheduler";
  FPSA_CHECK(
      euler || config.class_name == "UniPCMultistepScheduler" || config.class_name == "DPMSolverMultistepScheduler",
      origin,
      ": expected the scheduler UniPCMultistepScheduler, DPMSolverMultistepScheduler or "
      "FlowMatchEulerDiscreteScheduler, received '",
      config.class_name, "'");
  FPSA_CHECK(euler || text("prediction_type", "flow_prediction") == "flow_prediction", origin,
             ": expected 'prediction_type' \"flow_prediction\", received ", json["prediction_type"].dump());
  config.flow_shift = number(euler ? "shift" : "flow_shift", euler ? 1.0 : config.flow_shift);
  FPSA_CHECK(std::isfinite(config.flow_shift) && config.flow_shift > 0, origin,
             ": the flow shift must be positive, received ", config.flow_shift);
  const double steps = number("num_train_timesteps", 1000);
  FPSA_CHECK(steps == 1000, origin, ": 'num_train_timesteps' must be 1000, the scale of Wan's timestep embedding; ",
             "received ", steps);
  return config;
}

std::unique_ptr<WanDit> load_transformer(const PartFiles& files, const PartOptions& options, LoadedPart* report,
                                         std::string* schedule) {
  return build_transformer(open_part(files, Part::kTransformer), options, report, schedule);
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
  model.scheduler.flow_shift = place.layout == Layout::kDiffusers ? model.scheduler.flow_shift : kOriginalFlowShift;
  if (const fs::path file = find_scheduler(place); !file.empty())
    model.scheduler = SchedulerConfig::from_json(io::read_json(file), file.string());
  // The transformer's headers first: a model that is refused is refused before gigabytes of text encoder are converted.
  OpenedPart transformer;
  if (options.transformer) {
    transformer = open_part(find_part(place, Part::kTransformer), Part::kTransformer);
    dit_config_of(transformer);
  }
  LoadedPart report;
  if (options.vae) {
    model.vae =
        load_vae(override_or_find(options.vae_path, place, Part::kVae), {options.vae_dtype, options.device}, &report);
    model.parts.push_back(report);
  }
  if (options.text_encoder) {
    OpenedPart part =
        open_part(override_or_find(options.text_encoder_path, place, Part::kTextEncoder), Part::kTextEncoder);
    model.tokenizer = std::make_unique<Tokenizer>(load_tokenizer(options, place, part));
    model.text_encoder = build_text_encoder(std::move(part), {options.text_dtype, options.device}, &report);
    model.parts.push_back(report);
  }
  if (options.transformer) {
    model.transformer =
        build_transformer(std::move(transformer), {options.dtype, options.device}, &report, &model.schedule);
    model.parts.push_back(report);
  }
  check_fit(model);
  return model;
}

std::string WanModel::description() const {
  std::ostringstream out;
  out << root.string() << ": " << name_of(layout) << std::fixed << std::setprecision(1);
  for (const LoadedPart& part : parts)
    out << "\n  " << name_of(part.part) << ": " << static_cast<double>(part.parameters) / 1e6 << " M parameters, "
        << static_cast<double>(part.weight_bytes) / 1e6 << " MB, of which "
        << static_cast<double>(part.converted_bytes) / 1e6 << " MB converted from another dtype";
  out << "\n  flow shift " << scheduler.flow_shift << " (" << scheduler.class_name << ")";
  if (!schedule.empty()) out << "\n  carries an attention schedule (" << kScheduleKey << ")";
  return out.str();
}

}  // namespace fpsa::models::wan
