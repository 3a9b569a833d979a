// What a training run does: a TOML file read once at the start.
//
//   kind = "dit"                    "vae" or "dit"
//   seed = 1                        decides weights, data and noise
//   attention = "fps"               DiT: "dense" or "fps", trained as it will be run (train/phases.h)
//   schedule = "fps.toml"           for "fps": the schedule, relative to the recipe
//   gradient_checkpointing = true   DiT: keep each layer's input alone and run the layer again in the backward: the
//   same
//                                   bits in far less memory, for about one forward more of time
//   distill_weight = 0.1            DiT: also the distance to the velocity of the starting weights, frozen, under dense
//                                   attention; with [lora] to that of the model without adapters
//   [optimizer]  preset beta1 beta2 epsilon momentum adam_scale weight_decay clip_norm ema warmup_steps
//   [report]     log_seconds checkpoint_seconds preview_minutes preview_prompts, and when a given model is fine-tuned
//                prompts = ["..."] preview_steps preview_guidance: what the preview pictures show and how they are made
//   [data] [lora]  fine-tuning of a given model: train/finetune_config.h
//   [[stage]]    frames height width batch, minutes or steps, learning_rate [begin, end], and the rest of struct Stage
//
// preset = "paper" stands for FPSAttention's settings wherever a key is not given: AdamW (muon = false) with epsilon
// 1e-15, weight_decay 1e-4, clip_norm 1, ema 0.99, 200 warm-up steps; in the stages learning_rate 5e-6 and shift 5.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "fpsa/schedule/schedule.h"
#include "fpsa/train/finetune_config.h"
#include "fpsa/train/optimizer.h"

namespace fpsa::train {

enum class Kind { kVae, kDit };

/// A stretch of training with fixed sizes. Ends after `steps` steps or after `minutes`, whichever is given.
struct Stage {
  int64_t frames = 17, height = 64, width = 64;  // what the model sees
  int64_t batch = 1;
  int64_t steps = 0;
  double minutes = 0;
  std::array<double, 2> learning_rate = {1e-3, 1e-3};  // linear in the stage's progress, begin to end
  int64_t micro_batches = 1;                           // batches whose mean gradient makes one step
  // VAE: clips are rendered at `source` (frames, height, width) and a crop of the size above is cut around the
  // object; equal sizes mean whole frames. Several crop shapes take turns by weight.
  struct Crop {
    std::array<int64_t, 3> size, source;
    int64_t batch = 1;
    double weight = 1;
  };
  std::vector<Crop> crops;
  bool bf16 = true;  // VAE: compute in BF16 where this machine is fast in it, else F32
  // DiT
  double shift = 3.0;         // of the noise levels that training draws
  int64_t density_steps = 0;  // "fps": windows narrow from the whole grid to the schedule's in this many steps
  std::array<double, 3> stretch = {1, 1, 1};  // RoPE coordinates are multiplied by this
  int64_t pool_clips = 1024;                  // latents kept; the oldest are replaced
  int64_t pool_start = 256;                   // encoded before the first step
  int64_t refresh_every = 8;                  // one more chunk of clips every so many steps
  int64_t eval_prompts = 0;                   // held-out prompts judged at the end of the stage
};

/// The token grid of a DiT stage.
pattern::Grid grid_of(const Stage& stage);

struct Recipe {
  Kind kind = Kind::kVae;
  uint64_t seed = 1;
  OptimizerConfig optimizer;
  bool muon = true;
  int64_t warmup_steps = 50;
  double log_seconds = 20;
  double checkpoint_seconds = 300;
  double preview_minutes = 20;  // 0: never
  int64_t preview_prompts = 8;
  std::vector<std::string> prompts;  // of the previews when fine-tuning; empty: the first captions
  int64_t preview_steps = 12;        // of Euler, when fine-tuning
  double preview_guidance = 3.0;
  bool decoder_only = false;      // VAE: the encoder stays, so that latents made with it stay valid
  double prompt_dropout = 0.1;    // DiT
  double slot_weight = 0.05;      // DiT: weight of the prompt-slot classifier
  double coverage_weight = 0.5;   // DiT: weight of the coverage head
  int64_t non_finite_limit = 20;  // this many non-finite steps in a row end the run
  // DiT, attention = "fps"; without a schedule attention is dense.
  std::optional<schedule::Schedule> schedule;
  int64_t num_inference_steps = 50;  // of the sampler whose levels tell which step, so which phase, a sigma is in
  double distill_weight = 0;         // of the distance to the velocity of the starting weights under dense attention
  bool gradient_checkpointing = false;
  // DiT: fine-tuning of a given model, finetune_config.h
  std::optional<DataConfig> data;
  std::optional<LoraConfig> lora;
  bool finetunes() const { return data || lora; }
  std::vector<Stage> stages;
  std::string text;  // the file as read, kept in checkpoints: a run is resumed with the recipe it began with
};

/// Reads a recipe and the schedule that it names. `origin` is the path of the text, for messages and for the place of
/// the schedule.
///   Errors    fpsa::Error naming file, key, what was expected and what was found; unknown keys are errors, and so are
///             a schedule that does not fit a stage's grid and one in INT8, which has no backward
Recipe load_recipe(const std::filesystem::path& path);
Recipe parse_recipe(std::string_view text, const std::string& origin);

}  // namespace fpsa::train
