// Names of the tensors in every file layout that Wan2.1 weights come in, brought to the one the modules ask for.
//
// Three naming schemes meet here: diffusers' (and transformers' for the text encoder), which the modules use; the
// original Wan repository's; and the latter behind a prefix with F8 scales beside the weights, as repackaged for
// ComfyUI.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "fpsa/nn/tensor_map.h"

namespace fpsa::models::wan {

enum class Part { kTransformer, kVae, kTextEncoder };
enum class Naming { kDiffusers, kOriginal };

/// "transformer", "vae", "text encoder".
std::string_view name_of(Part part);

/// What a set of tensor names is.
struct Recognised {
  Part part = Part::kTransformer;
  Naming naming = Naming::kDiffusers;
  std::string prefix;  // in front of every name, e.g. "model.diffusion_model."
};

/// Tells a part of a Wan model by names that only it has; nothing for other models.
std::optional<Recognised> recognise(const std::set<std::string>& names);

/// Throws fpsa::Error, naming the kind, for weights of the family that the engine does not run: image-to-video, VACE,
/// Wan2.2, LoRA files, foreign quantisations. Names may carry a prefix.
void refuse_unsupported(const std::set<std::string>& names, const std::string& origin);

/// Original name -> diffusers' name, for one tensor. A name outside the scheme is returned as it is, so that the
/// loader's report shows it.
std::string transformer_name(std::string_view original);
std::string text_encoder_name(std::string_view original);

/// Where each entry of the original decoder's flat list "decoder.upsamples.N" stands in diffusers' up_blocks.
struct DecoderPlace {
  int64_t level = 0;
  int64_t resnet = -1;  // index among the level's residuals; -1 for its upsampler
};
/// By N. The list alternates residuals and, after each level but the last, one entry with "resample" tensors.
std::vector<DecoderPlace> decoder_places(const std::set<std::string>& names);
std::string vae_name(std::string_view original, const std::vector<DecoderPlace>& places);

/// One part, ready for a nn::CheckpointSource.
struct PartWeights {
  Recognised found;
  nn::TensorMap tensors;    // by diffusers' name
  nn::TensorMap scales;     // of F8 weights, by the weight's name; shaped to multiply it
  at::Tensor spiece_model;  // U8: the sentencepiece model that repackaged text encoders carry, or undefined
};

/// Renames a checkpoint's tensors; no tensor is copied.
///   Edges     F8 scales ("layer.scale_weight"), activation scales ("layer.scale_input", unused: activations are not
///             quantised by them here) and the marker "scaled_fp8" are taken out; a second copy of the text encoder's
///             embedding table is dropped
///   Errors    fpsa::Error: not the expected part, an unsupported kind (refuse_unsupported), two tensors for one
///             name, a scale that does not fit its weight
PartWeights rename_part(nn::TensorMap stored, Part expected, const std::string& origin);

/// The names of a map.
std::set<std::string> names_of(const nn::TensorMap& tensors);

}  // namespace fpsa::models::wan
