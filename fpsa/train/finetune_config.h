// What a recipe says about fine-tuning a model on a user's videos.
//
//   [data]  folder = "videos"            relative to the recipe; with captions.jsonl or captions.csv in it
//           captions = "other.csv"       the list, if it lies elsewhere
//           cache = "cache"              encoded clips and captions (default: OUT/cache)
//           fps = 16                     frame rate of the clips
//           clips = 1                    at most so many clips, one after the other, of each video
//   [lora]  rank = 16, alpha = 16        the adapter is B A alpha / rank
//           targets = ["to_q", ...]      modules whose name is, or ends with, one of these
//
// [report] prompts = ["..."], preview_steps = 12 and preview_guidance = 3.0 say what the sheets in OUT/previews show:
// without prompts the first preview_prompts captions, sampled with Euler under the recipe's schedule.
//
// Either table makes `fpsa train` fine-tune the model in --model: its transformer, or LoRA adapters on it. Text encoder
// and VAE stay as they are. Without [data] the procedural clips are used.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace fpsa::train {

struct DataConfig {
  std::filesystem::path folder, captions, cache;  // captions and cache may be empty
  double fps = 16;
  int64_t clips = 1;
};

struct LoraConfig {
  int64_t rank = 16;
  double alpha = 16;  // the rank, where the recipe does not say
  std::vector<std::string> targets = {"to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2"};
};

/// The [data] and [lora] tables of a recipe's text alone, if it has them: for what a checkpoint says about its
/// adapters, without the files that the rest of its recipe names. `origin` is the path of the text: paths in it are
/// relative to its folder.
///   Errors    fpsa::Error naming origin, key, what was expected and what was found; unknown keys are errors
std::optional<DataConfig> data_of_recipe(std::string_view text, const std::string& origin);
std::optional<LoraConfig> lora_of_recipe(std::string_view text, const std::string& origin);

}  // namespace fpsa::train
