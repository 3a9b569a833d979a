// Latents and text states in files.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <filesystem>
#include <vector>

namespace fpsa::app {

/// The tensor 'initial' (or 'latents', or the only one) of a safetensors file.
///   Errors    fpsa::Error on a missing tensor, another dtype than F32, another shape, non-finite values
at::Tensor read_latents(const std::filesystem::path& path, const std::vector<int64_t>& shape);

/// Writes 'initial' and 'final', F32, atomically.
void write_latents(const std::filesystem::path& path, const at::Tensor& initial, const at::Tensor& final);

/// Text states for one clip.
struct TextStates {
  at::Tensor positive;  // [1, Lt, Dt], zeros after the prompt
  at::Tensor negative;  // the same, undefined without guidance
};

/// Reads prompt_embeds and, with guidance, negative_prompt_embeds; shorter ones are padded with zeros to `length`.
///   Errors    fpsa::Error on wrong shapes, or guidance without negative_prompt_embeds
TextStates read_prompt_embeds(const std::filesystem::path& path, int64_t length, int64_t width, bool guidance);

/// Pads or refuses so that states become [1, length, width].
at::Tensor pad_states(const at::Tensor& states, int64_t length);

}  // namespace fpsa::app
