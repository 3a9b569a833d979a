#include "fpsa/train/export.h"

#include <nlohmann/json.hpp>

#include "fpsa/base/check.h"
#include "fpsa/io/atomic_file.h"
#include "fpsa/io/json.h"
#include "fpsa/nn/checkpoint.h"
#include "fpsa/train/dit_model.h"

namespace fpsa::train {
namespace {

constexpr const char* kDiffusersVersion = "0.42.1";

void write_json(const std::filesystem::path& path, const nlohmann::json& json) {
  const std::string text = json.dump(2) + "\n";
  io::write_file(path, text);
}

// The tensors under a prefix, without it, in `dtype`.
nn::TensorMap part(const nn::TensorMap& weights, const std::string& prefix, at::ScalarType dtype) {
  nn::TensorMap out;
  for (const auto& [name, tensor] : weights)
    if (name.starts_with(prefix)) out.emplace(name.substr(prefix.size()), tensor.detach().to(dtype).contiguous());
  FPSA_CHECK(!out.empty(), "the checkpoint holds no '", prefix, "*' weights; it is not one of fpsa train --stage dit");
  return out;
}

void save_model(const std::filesystem::path& folder, const char* file, const nlohmann::json& config,
                const nn::TensorMap& tensors, const std::optional<schedule::Schedule>& schedule = std::nullopt) {
  std::filesystem::create_directories(folder);
  write_json(folder / "config.json", config);
  std::map<std::string, std::string> metadata = {{"format", "pt"}};
  if (schedule) metadata.emplace(schedule::kMetadataKey, schedule::to_toml(*schedule));
  nn::save_tensors(folder / file, tensors, metadata);
}

}  // namespace

void export_vae(const std::filesystem::path& folder, const models::wan::VaeConfig& config,
                const nn::TensorMap& weights) {
  save_model(folder / "vae", "diffusion_pytorch_model.safetensors", config.to_json(), weights);
}

void export_pipeline(const std::filesystem::path& folder, const nn::TensorMap& weights, int64_t vocab_size,
                     const std::optional<schedule::Schedule>& schedule) {
  for (const char* needed : {"vae", "tokenizer"})
    FPSA_CHECK(std::filesystem::is_directory(folder / needed), "export folder ", folder, " lacks ", needed,
               "/; put it there first");
  save_model(folder / "transformer", "diffusion_pytorch_model.safetensors", tiny_dit_config().to_json(),
             part(weights, "transformer.", at::kBFloat16), schedule);
  save_model(folder / "text_encoder", "model.safetensors", tiny_umt5_config(vocab_size).to_json(),
             part(weights, "text_encoder.", at::kBFloat16));
  std::filesystem::create_directories(folder / "scheduler");
  write_json(folder / "scheduler" / "scheduler_config.json", {{"_class_name", "UniPCMultistepScheduler"},
                                                              {"_diffusers_version", kDiffusersVersion},
                                                              {"num_train_timesteps", 1000},
                                                              {"prediction_type", "flow_prediction"},
                                                              {"use_flow_sigmas", true},
                                                              {"flow_shift", schedule ? schedule->shift : 5.0},
                                                              {"solver_order", 2},
                                                              {"solver_type", "bh2"},
                                                              {"predict_x0", true},
                                                              {"lower_order_final", true},
                                                              {"final_sigmas_type", "zero"}});
  write_json(folder / "model_index.json", {{"_class_name", "WanPipeline"},
                                           {"_diffusers_version", kDiffusersVersion},
                                           {"scheduler", {"diffusers", "UniPCMultistepScheduler"}},
                                           {"text_encoder", {"transformers", "UMT5EncoderModel"}},
                                           {"tokenizer", {"transformers", "PreTrainedTokenizerFast"}},
                                           {"transformer", {"diffusers", "WanTransformer3DModel"}},
                                           {"vae", {"diffusers", "AutoencoderKLWan"}}});
  // What `fpsa generate` takes where the command line is silent: the clips that the model was trained on. The flow
  // shift is the scheduler's.
  write_json(folder / "fpsa.json", {{"num_frames", 33},
                                    {"height", 256},
                                    {"width", 256},
                                    {"fps", 16},
                                    {"num_inference_steps", 20},
                                    {"guidance_scale", 3.0}});
}

std::string carried_schedule(const std::filesystem::path& weights) {
  const auto metadata = nn::load_tensors(weights).metadata;
  const auto carried = metadata.find(std::string(schedule::kMetadataKey));
  return carried == metadata.end() ? "" : carried->second;
}

void export_transformer(const std::filesystem::path& base, const std::filesystem::path& folder,
                        const nn::TensorMap& weights, const std::optional<schedule::Schedule>& schedule) {
  const nlohmann::json config = io::read_json(base / "transformer" / "config.json");
  const nn::TensorMap tensors = part(weights, "transformer.", at::kBFloat16);
  nn::CheckpointSource fitting(tensors, at::kBFloat16, join(base.string(), ": the checkpoint is of another model"));
  const models::wan::WanDit dit(models::wan::DitConfig::from_json(config), nn::Scope(fitting));
  fitting.finish();
  save_model(folder / "transformer", "diffusion_pytorch_model.safetensors", config, tensors, schedule);
}

nn::TensorMap folder_weights(const std::filesystem::path& folder, Kind kind) {
  if (kind == Kind::kVae) return nn::load_tensors(folder / "vae").tensors;
  nn::TensorMap out;
  for (const std::string part : {"transformer", "text_encoder"})
    for (const auto& [name, tensor] : nn::load_tensors(folder / part).tensors)
      out.emplace(join(part, ".", name), tensor);
  return out;
}

}  // namespace fpsa::train
