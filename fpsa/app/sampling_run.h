// What the commands that sample have in common: from their options to prompts' states and a denoised clip.
#pragma once

#include <ATen/ATen.h>

#include <functional>
#include <string>
#include <vector>

#include "fpsa/app/clip_shape.h"
#include "fpsa/app/generate_options.h"
#include "fpsa/app/latents_io.h"
#include "fpsa/app/memory_plan.h"
#include "fpsa/app/model_session.h"
#include "fpsa/diffusion/loop.h"

namespace fpsa::app {

/// A line for the user, on standard error.
void say(const std::string& text);

/// "bf16" or "f32".
std::string dtype_word(at::ScalarType type);

/// Applies --device and --threads.
///   Errors    fpsa::Error for a device that cannot be used
void choose_device(const GenerateOptions& options);

/// --prompt, or the lines of --prompt-file.
std::vector<std::string> prompts_of(const GenerateOptions& options);

/// The folder's sampler settings with what the flags change.
///   Errors    fpsa::Error: everything SchedulerConfig::check refuses
diffusion::SchedulerConfig scheduler_for(const GenerateOptions& options, const ModelSession& model);

/// What the memory of one clip depends on: one prompt, one sample per forward, an untiled VAE until that is changed.
MemoryRequest memory_request(const ModelSession& model, const ClipShape& shape);

/// `auto` settings trade memory for speed up to this. Of total, not free memory: what a neighbour happens to use must
/// not change the bytes of a video.
int64_t comfortable_bytes();

/// Resolves --cfg, sets request.batch to match, and says so when memory decided.
diffusion::GuidanceRun choose_guidance(const GenerateOptions& options, MemoryRequest& request);

/// States of every prompt, or of --prompt-embeds; gives the text encoder back.
///   Errors    those of encode_prompt and read_prompt_embeds; Interrupted
std::vector<TextStates> encode_texts(const GenerateOptions& options, ModelSession& model,
                                     const std::vector<std::string>& prompts);

/// diffusion::denoise with a progress display, and with a look for Ctrl-C at every step and attention call.
///   Requires  everything but `progress` set in loop
///   Errors    those of diffusion::denoise; Interrupted
at::Tensor denoise_clip(ModelSession& model, nn::AttentionMethod& attention, const at::Tensor& initial,
                        const TextStates& text, diffusion::LoopOptions loop, const std::string& label,
                        const std::function<void(double seconds)>& on_step = {});

}  // namespace fpsa::app
