#include "fpsa/app/latents_io.h"

#include "fpsa/app/usage_error.h"
#include "fpsa/nn/tensor_map.h"

namespace fpsa::app {
namespace {

std::string shape_text(at::IntArrayRef shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i)
    text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

at::Tensor embeds_of(const nn::TensorMap& tensors, const std::string& name, const std::string& path, int64_t length,
                     int64_t width) {
  const auto found = tensors.find(name);
  FPSA_CHECK(found != tensors.end(), "--prompt-embeds ", path, ": expected a tensor '", name,
             "', got none of that name",
             name.starts_with("negative") ? "; it is needed because --guidance-scale is above 1" : "");
  const auto& states = found->second;
  FPSA_CHECK(states.dim() == 3 && states.size(0) == 1 && states.size(1) <= length && states.size(2) == width,
             "--prompt-embeds ", path, ": expected ", name, " of shape [1, L, ", width, "] with L at most ", length,
             ", got ", shape_text(states.sizes()));
  FPSA_CHECK(at::isFloatingType(states.scalar_type()), "--prompt-embeds ", path, ": expected a floating type for ",
             name, ", got ", c10::toString(states.scalar_type()));
  FPSA_CHECK(at::isfinite(states).all().item<bool>(), "--prompt-embeds ", path, ": expected finite values in ", name,
             ", got NaN or infinity");
  return pad_states(states.to(at::kFloat), length);
}

}  // namespace

at::Tensor read_latents(const std::filesystem::path& path, const std::vector<int64_t>& shape) {
  const auto loaded = nn::load_tensors(path);
  auto found = loaded.tensors.find("initial");
  if (found == loaded.tensors.end()) found = loaded.tensors.find("latents");
  if (found == loaded.tensors.end() && loaded.tensors.size() == 1) found = loaded.tensors.begin();
  FPSA_CHECK(found != loaded.tensors.end(), "--init-latents ", path.string(),
             ": expected a tensor 'initial' or 'latents', got ", loaded.tensors.size(), " tensors of other names");
  const auto& latents = found->second;
  FPSA_CHECK(latents.scalar_type() == at::kFloat && latents.sizes() == at::IntArrayRef(shape), "--init-latents ",
             path.string(), ": expected F32 ", shape_text(shape), " for this clip, got ",
             c10::toString(latents.scalar_type()), " ", shape_text(latents.sizes()),
             "; --num-frames, --height and --width decide the shape");
  FPSA_CHECK(at::isfinite(latents).all().item<bool>(), "--init-latents ", path.string(),
             ": expected finite values, got NaN or infinity");
  return latents.clone();  // the file may change under its mapping
}

void write_latents(const std::filesystem::path& path, const at::Tensor& initial, const at::Tensor& final) {
  nn::save_tensors(path, {{"initial", initial}, {"final", final}});
}

at::Tensor pad_states(const at::Tensor& states, int64_t length) {
  return at::constant_pad_nd(states, {0, 0, 0, length - states.size(1)}).contiguous();
}

TextStates read_prompt_embeds(const std::filesystem::path& path, int64_t length, int64_t width, bool guidance) {
  const auto tensors = nn::load_tensors(path).tensors;
  TextStates result;
  result.positive = embeds_of(tensors, "prompt_embeds", path.string(), length, width);
  if (guidance) result.negative = embeds_of(tensors, "negative_prompt_embeds", path.string(), length, width);
  return result;
}

}  // namespace fpsa::app
