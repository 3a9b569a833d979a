#include "fpsa/models/wan/weight_map.h"

#include "fpsa/base/check.h"
#include "fpsa/models/wan/text_encoder.h"

namespace fpsa::models::wan {
namespace {

constexpr std::string_view kPrefixes[] = {"", "model.diffusion_model.", "diffusion_model."};

struct Marker {
  Part part;
  Naming naming;
  std::string_view first, second;  // two names that no other part has together
};
constexpr Marker kMarkers[] = {
    {Part::kTransformer, Naming::kOriginal, "patch_embedding.weight", "head.modulation"},
    {Part::kTransformer, Naming::kDiffusers, "patch_embedding.weight", "condition_embedder.time_proj.weight"},
    {Part::kVae, Naming::kOriginal, "decoder.middle.0.residual.0.gamma", "decoder.conv1.weight"},
    {Part::kVae, Naming::kDiffusers, "decoder.mid_block.resnets.0.norm1.gamma", "decoder.conv_in.weight"},
    {Part::kTextEncoder, Naming::kOriginal, "token_embedding.weight", "blocks.0.attn.q.weight"},
    {Part::kTextEncoder, Naming::kDiffusers, "encoder.final_layer_norm.weight",
     "encoder.block.0.layer.0.SelfAttention.q.weight"},
};

struct Refusal {
  std::string_view fragment;  // of a tensor's name
  std::string_view kind;
};
constexpr Refusal kRefusals[] = {
    {"vace_", "a VACE model"},
    {"motion_encoder.", "a Wan2.2-Animate model"},
    {"face_adapter.", "a Wan2.2-Animate model"},
    {"casual_audio_encoder.", "a Wan2.2-S2V model"},
    {"audio_injector.", "a Wan2.2-S2V model"},
    {"control_adapter.", "a camera-control (Wan-Fun) model"},
    {"ref_conv.", "a reference-control (Wan-Fun) model"},
    {"img_emb.", "an image-to-video (I2V) model"},
    {"cross_attn.k_img.", "an image-to-video (I2V) model"},
    {"image_embedder.", "an image-to-video (I2V) model"},
    {"attn2.add_k_proj.", "an image-to-video (I2V) model"},
    {"encoder.downsamples.0.downsamples.", "the VAE of Wan2.2"},
    {"encoder.down_blocks.0.resnets.", "the VAE of Wan2.2"},
    {"lora_", "a LoRA, which holds differences to a model and not a model"},
    {".comfy_quant", "weights in ComfyUI's mixed quantisation"},
    {".weight_scale", "weights in a quantisation with 'weight_scale' tensors"},
    {".quant_state.", "weights quantised by bitsandbytes"},
    {".absmax", "weights quantised by bitsandbytes"},
    {".qweight", "weights quantised by GPTQ or AWQ"},
};

bool ends_off(std::string& name, std::string_view suffix) {
  if (!name.ends_with(suffix)) return false;
  name.resize(name.size() - suffix.size());
  return true;
}

// A scale for all of a weight, or one per row of it.
at::Tensor fitted_scale(const at::Tensor& scale, const at::Tensor& weight, const std::string& name,
                        const std::string& origin) {
  const bool floating = at::isFloatingType(scale.scalar_type());
  if (floating && scale.numel() == 1) return scale.reshape({});
  FPSA_CHECK(floating && weight.dim() >= 1 && scale.numel() == weight.size(0), origin, ": the scale of '", name,
             "': expected one number, or one for each of ", weight.dim() >= 1 ? weight.size(0) : 1,
             " rows, received shape ", scale.sizes(), " of ", at::toString(scale.scalar_type()));
  std::vector<int64_t> shape(static_cast<size_t>(weight.dim()), 1);
  shape[0] = weight.size(0);
  return scale.reshape(shape);
}

std::string diffusers_name(const std::string& name, const Recognised& found, const std::vector<DecoderPlace>& places) {
  if (found.naming == Naming::kDiffusers) return name;
  switch (found.part) {
    case Part::kTransformer:
      return transformer_name(name);
    case Part::kVae:
      return vae_name(name, places);
    case Part::kTextEncoder:
      return text_encoder_name(name);
  }
  return name;
}

void drop_tied_embedding(nn::TensorMap& tensors) {
  auto tied = tensors.extract(std::string(kUmt5TiedEmbedding));
  if (tied.empty() || tensors.contains("shared.weight")) return;
  tied.key() = "shared.weight";
  tensors.insert(std::move(tied));
}

}  // namespace

std::string_view name_of(Part part) {
  switch (part) {
    case Part::kTransformer:
      return "transformer";
    case Part::kVae:
      return "vae";
    case Part::kTextEncoder:
      return "text encoder";
  }
  return "";
}

std::set<std::string> names_of(const nn::TensorMap& tensors) {
  std::set<std::string> names;
  for (const auto& [name, tensor] : tensors)
    names.insert(name);
  return names;
}

std::optional<Recognised> recognise(const std::set<std::string>& names) {
  for (const std::string_view prefix : kPrefixes)
    for (const Marker& marker : kMarkers)
      if (names.contains(join(prefix, marker.first)) && names.contains(join(prefix, marker.second)))
        return Recognised{marker.part, marker.naming, std::string(prefix)};
  return std::nullopt;
}

void refuse_unsupported(const std::set<std::string>& names, const std::string& origin) {
  for (const Refusal& refusal : kRefusals)
    for (const std::string& name : names)
      FPSA_CHECK(name.find(refusal.fragment) == std::string::npos, origin, ": tensor '", name, "' shows that this is ",
                 refusal.kind,
                 ", which is not supported; expected a Wan2.1 text-to-video (T2V) checkpoint in BF16, F16, "
                 "F32 or F8_E4M3 (with or without scale_weight)");
}

PartWeights rename_part(nn::TensorMap stored, Part expected, const std::string& origin) {
  const std::set<std::string> names = names_of(stored);
  refuse_unsupported(names, origin);
  const auto found = recognise(names);
  FPSA_CHECK(found, origin, ": expected the ", name_of(expected), " of a Wan2.1 model, received ", names.size(),
             " tensors of another model", names.empty() ? "" : ", such as '" + *names.begin() + "'");
  FPSA_CHECK(found->part == expected, origin, ": expected the ", name_of(expected), " of a Wan2.1 model, received the ",
             name_of(found->part));

  PartWeights weights;
  weights.found = *found;
  nn::TensorMap plain, scales;  // by the name in the file, prefix and suffix taken off
  for (auto& [stored_name, tensor] : stored) {
    std::string name = stored_name;
    if (name.starts_with(found->prefix)) name.erase(0, found->prefix.size());
    if (name == "scaled_fp8" || name.ends_with(".scale_input")) continue;
    if (name == "spiece_model")
      weights.spiece_model = tensor;
    else if (ends_off(name, ".scale_weight"))
      scales.emplace(name + ".weight", tensor);
    else
      FPSA_CHECK(plain.emplace(name, tensor).second, origin, ": tensor '", name,
                 "' is there with and without the prefix '", found->prefix, "'");
  }
  const std::vector<DecoderPlace> places = decoder_places(names_of(plain));
  for (const auto& [name, tensor] : plain) {
    const std::string target = diffusers_name(name, *found, places);
    FPSA_CHECK(weights.tensors.emplace(target, tensor).second, origin, ": two tensors stand for '", target,
               "'; one of them is '", name, "'");
  }
  for (const auto& [name, scale] : scales) {
    const std::string target = diffusers_name(name, *found, places);
    const auto weight = weights.tensors.find(target);
    FPSA_CHECK(weight != weights.tensors.end(), origin, ": there is a scale for '", name, "' but no such tensor");
    weights.scales.emplace(target, fitted_scale(scale, weight->second, name, origin));
  }
  if (expected == Part::kTextEncoder) drop_tied_embedding(weights.tensors);
  return weights;
}

}  // namespace fpsa::models::wan
