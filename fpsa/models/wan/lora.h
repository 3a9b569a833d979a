// LoRA files of Wan2.1 transformers, in the layouts that people share, as differences to the weights.
//
//   diffusers        transformer.blocks.0.attn1.to_q.lora_A.weight, .lora_B.weight; rank and alpha in the metadata
//   PEFT             base_model.model.blocks.0.attn1.to_q.lora_A.weight; adapter_config.json beside the file
//   original, Comfy  diffusion_model.blocks.0.self_attn.q.lora_down.weight, .lora_up.weight, .alpha; .diff and .diff_b
//   musubi, kohya    lora_unet_blocks_0_self_attn_q.lora_down.weight, .lora_up.weight, .alpha
//
// An adapter adds scale * alpha / rank * B A to its weight; without an alpha, alpha is the rank.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "fpsa/models/wan/dit_config.h"
#include "fpsa/nn/merging_source.h"

namespace fpsa::models::wan {

/// A LoRA to merge. `path` is a safetensors file, or a folder with pytorch_lora_weights or adapter_model.safetensors.
struct LoraFile {
  std::filesystem::path path;
  double scale = 1.0;
};

/// The files' differences to the parameters of a transformer of that configuration, by diffusers' names.
///   Memory    mapped; the shapes are checked, no value is read
///   Errors    fpsa::Error, per file with all faults at once: keys that fit no weight of the transformer, wrong shapes,
///             halves without their partner, an alpha without an adapter; no file, no safetensors, no adapters
nn::WeightDeltas read_loras(const std::vector<LoraFile>& files, const DitConfig& config);

/// The safetensors metadata of a LoRA's file.
std::map<std::string, std::string> lora_metadata(const LoraFile& file);

}  // namespace fpsa::models::wan
