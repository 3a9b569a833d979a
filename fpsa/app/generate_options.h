// What `fpsa generate` was asked to do.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "fpsa/models/wan/layouts.h"
#include "fpsa/models/wan/lora.h"
#include "fpsa/models/wan/rope.h"

namespace fpsa::app {

/// Every setting of one run, after command line, --config, the model folder's fpsa.json and the built-in defaults
/// (diffusers' WanPipeline) were merged, in that order of precedence.
struct GenerateOptions {
  std::filesystem::path model;
  models::wan::PartPaths parts;  // VAE, text encoder and tokenizer from elsewhere
  std::vector<models::wan::LoraFile> loras;
  std::string prompt;
  std::filesystem::path prompt_file;
  std::string negative_prompt;
  std::filesystem::path prompt_embeds;  // safetensors instead of prompt, tokenizer and text encoder

  int64_t height = 480, width = 832, num_frames = 81;
  double fps = 16;
  models::wan::RopeStretch rope_scale;
  int64_t steps = 50;
  double guidance_scale = 5.0;
  std::optional<double> flow_shift;  // else the folder's scheduler
  std::string sampler;               // empty: the folder's scheduler, UniPC where it has none
  uint64_t seed = 0;

  std::string attention = "auto";
  std::filesystem::path schedule;
  bool explain = false;

  std::string dtype = "auto", vae_dtype = "f32";
  int64_t threads = 0;  // 0: what torch chooses
  std::string device = "auto";
  std::string cfg = "auto";         // auto, batched, sequential
  std::string vae_tiling = "auto";  // auto, on, off
  bool ignore_memory = false;
  bool warmup = false;

  std::filesystem::path output, frames_dir, perf_dump, init_latents, dump_latents;

  std::vector<std::string> notes;  // what to say about accepted but ineffective flags
};

}  // namespace fpsa::app
