#include "tests/models/wan/small_model.h"

#include <c10/core/GradMode.h>

#include <fstream>

#include "fpsa/base/check.h"
#include "fpsa/models/wan/dit.h"
#include "fpsa/models/wan/tokenizer.h"
#include "fpsa/models/wan/vae.h"
#include "fpsa/models/wan/weight_map.h"

namespace fpsa::testing {
namespace fs = std::filesystem;
using namespace models::wan;
namespace {

template <class Module, class Config>
nn::TensorMap random_tensors(const Config& config, uint64_t seed) {
  c10::NoGradGuard guard;
  nn::RandomInit source(seed);
  Module module(config, nn::Scope(source));
  at::Generator generator = at::detail::getDefaultCPUGenerator();
  generator.set_current_seed(seed);
  nn::TensorMap tensors;
  // Normal noise everywhere: no two tensors are equal, so a swap cannot pass.
  for (const auto& [name, tensor] : source.tensors)
    tensors[name] = at::randn(tensor.sizes(), generator).mul_(0.1).to(at::kBFloat16);
  return tensors;
}

void add(std::vector<std::string>& names, const std::string& layer, std::initializer_list<const char*> parameters) {
  for (const char* parameter : parameters)
    names.push_back(layer + "." + parameter);
}

void add_residual(std::vector<std::string>& names, const std::string& at, bool shortcut) {
  names.push_back(at + ".residual.0.gamma");
  add(names, at + ".residual.2", {"weight", "bias"});
  names.push_back(at + ".residual.3.gamma");
  add(names, at + ".residual.6", {"weight", "bias"});
  if (shortcut) add(names, at + ".shortcut", {"weight", "bias"});
}

void add_ends(std::vector<std::string>& names, const std::string& side) {
  add(names, side + ".conv1", {"weight", "bias"});
  add_residual(names, side + ".middle.0", false);
  names.push_back(side + ".middle.1.norm.gamma");
  add(names, side + ".middle.1.to_qkv", {"weight", "bias"});
  add(names, side + ".middle.1.proj", {"weight", "bias"});
  add_residual(names, side + ".middle.2", false);
  names.push_back(side + ".head.0.gamma");
  add(names, side + ".head.2", {"weight", "bias"});
}

template <class Rename>
nn::TensorMap renamed(const nn::TensorMap& tensors, const std::vector<std::string>& originals, Rename to_diffusers,
                      const std::string& prefix = "") {
  nn::TensorMap out;
  for (const std::string& name : originals)
    out[prefix + name] = tensors.at(to_diffusers(name));
  FPSA_CHECK(out.size() == tensors.size(), "the original names cover ", out.size(), " of ", tensors.size(), " tensors");
  return out;
}

}  // namespace

SmallModel small_model() {
  SmallModel model;
  model.dit.num_attention_heads = 1;
  model.dit.attention_head_dim = 128;
  model.dit.in_channels = model.dit.out_channels = 4;
  model.dit.text_dim = 32;
  model.dit.freq_dim = 16;
  model.dit.ffn_dim = 48;
  model.dit.num_layers = 2;
  model.vae.base_dim = 8;
  model.vae.z_dim = 4;
  model.vae.dim_mult = {1, 2, 4};
  model.vae.num_res_blocks = 1;
  model.vae.temperal_downsample = {true, false};
  model.vae.latents_mean = {0.1, 0.2, -0.1, 0.0};
  model.vae.latents_std = {1.0, 0.9, 1.1, 1.2};
  model.text.vocab_size = Tokenizer::load("models/tiny/tokenizer").vocab_size();
  model.text.d_model = 32;
  model.text.d_kv = 4;
  model.text.d_ff = 24;
  model.text.num_layers = 2;
  model.text.num_heads = 4;
  model.dit_tensors = random_tensors<WanDit>(model.dit, 1);
  model.vae_tensors = random_tensors<WanVae>(model.vae, 2);
  model.text_tensors = random_tensors<Umt5Encoder>(model.text, 3);
  return model;
}

std::vector<std::string> original_dit_names(int64_t layers) {
  std::vector<std::string> names = {"head.modulation"};
  for (const char* layer : {"patch_embedding", "text_embedding.0", "text_embedding.2", "time_embedding.0",
                            "time_embedding.2", "time_projection.1", "head.head"})
    add(names, layer, {"weight", "bias"});
  for (int64_t i = 0; i < layers; ++i) {
    const std::string at = "blocks." + std::to_string(i);
    names.push_back(at + ".modulation");
    for (const char* layer : {".norm3", ".ffn.0", ".ffn.2"})
      add(names, at + layer, {"weight", "bias"});
    for (const char* attention : {".self_attn", ".cross_attn"}) {
      for (const char* layer : {".q", ".k", ".v", ".o"})
        add(names, at + attention + layer, {"weight", "bias"});
      for (const char* norm : {".norm_q", ".norm_k"})
        add(names, at + attention + norm, {"weight"});
    }
  }
  return names;
}

std::vector<std::string> original_text_names(int64_t layers) {
  std::vector<std::string> names = {"token_embedding.weight", "norm.weight"};
  for (int64_t i = 0; i < layers; ++i)
    add(names, "blocks." + std::to_string(i),
        {"norm1.weight", "norm2.weight", "attn.q.weight", "attn.k.weight", "attn.v.weight", "attn.o.weight",
         "ffn.gate.0.weight", "ffn.fc1.weight", "ffn.fc2.weight", "pos_embedding.embedding.weight"});
  return names;
}

std::vector<std::string> original_vae_names(const VaeConfig& config) {
  std::vector<std::string> names;
  const size_t levels = config.dim_mult.size();
  add(names, "conv1", {"weight", "bias"});
  add(names, "conv2", {"weight", "bias"});
  add_ends(names, "encoder");
  add_ends(names, "decoder");
  int64_t entry = 0, channels = config.base_dim;
  for (size_t level = 0; level < levels; ++level) {
    const int64_t out = config.base_dim * config.dim_mult[level];
    for (int64_t i = 0; i < config.num_res_blocks; ++i, ++entry, channels = out)
      add_residual(names, "encoder.downsamples." + std::to_string(entry), channels != out);
    if (level + 1 == levels) break;
    const std::string at = "encoder.downsamples." + std::to_string(entry++);
    add(names, at + ".resample.1", {"weight", "bias"});
    if (config.temperal_downsample[level]) add(names, at + ".time_conv", {"weight", "bias"});
  }
  entry = 0;
  channels = config.decoder_dim() * config.dim_mult.back();
  for (size_t level = 0; level < levels; ++level) {
    const int64_t out = config.decoder_dim() * config.dim_mult[levels - 1 - level];
    if (level > 0) channels /= 2;  // an upsampler halves them
    for (int64_t i = 0; i <= config.num_res_blocks; ++i, ++entry, channels = out)
      add_residual(names, "decoder.upsamples." + std::to_string(entry), channels != out);
    if (level + 1 == levels) break;
    const std::string at = "decoder.upsamples." + std::to_string(entry++);
    add(names, at + ".resample.1", {"weight", "bias"});
    if (config.temperal_downsample[levels - 2 - level]) add(names, at + ".time_conv", {"weight", "bias"});
  }
  return names;
}

nn::TensorMap original_dit(const SmallModel& model, const std::string& prefix) {
  return renamed(model.dit_tensors, original_dit_names(model.dit.num_layers), transformer_name, prefix);
}

nn::TensorMap original_text(const SmallModel& model) {
  return renamed(model.text_tensors, original_text_names(model.text.num_layers), text_encoder_name);
}

nn::TensorMap original_vae(const SmallModel& model) {
  const std::vector<std::string> names = original_vae_names(model.vae);
  const std::vector<DecoderPlace> places = decoder_places({names.begin(), names.end()});
  return renamed(model.vae_tensors, names, [&](const std::string& name) { return vae_name(name, places); });
}

void write_text(const fs::path& path, const std::string& text) {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << text;
}

void write_diffusers_folder(const SmallModel& model, const fs::path& folder) {
  write_text(folder / "model_index.json", R"({"_class_name":"WanPipeline","_diffusers_version":"0.42.1",
    "transformer":["diffusers","WanTransformer3DModel"],"transformer_2":[null,null],"boundary_ratio":null,
    "expand_timesteps":false,"vae":["diffusers","AutoencoderKLWan"]})");
  write_text(folder / "transformer/config.json", model.dit.to_json().dump());
  write_text(folder / "vae/config.json", model.vae.to_json().dump());
  write_text(folder / "text_encoder/config.json", model.text.to_json().dump());
  write_text(folder / "scheduler/scheduler_config.json",
             R"({"_class_name":"UniPCMultistepScheduler","prediction_type":"flow_prediction","use_flow_sigmas":true,
    "flow_shift":4.0})");
  nn::save_tensors(folder / "transformer/diffusion_pytorch_model.safetensors", model.dit_tensors,
                   {{"fpsa.schedule", "version = 1"}});
  nn::save_tensors(folder / "vae/diffusion_pytorch_model.safetensors", model.vae_tensors);
  nn::save_tensors(folder / "text_encoder/model.safetensors", model.text_tensors);
  fs::copy("models/tiny/tokenizer", folder / "tokenizer", fs::copy_options::recursive);
}

}  // namespace fpsa::testing
