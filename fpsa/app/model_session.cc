#include "fpsa/app/model_session.h"

#include <malloc.h>

#include <algorithm>
#include <map>

#include "fpsa/app/machine.h"
#include "fpsa/base/check.h"
#include "fpsa/io/safetensors.h"
#include "fpsa/nn/tensor_map.h"

namespace fpsa::app {
namespace {

using models::wan::Part;

// The type that maps without a copy; 8-bit weights have none and become BF16.
at::ScalarType mappable(at::ScalarType stored) {
  return stored == at::kBFloat16 || stored == at::kHalf || stored == at::kFloat ? stored : at::kBFloat16;
}

at::ScalarType compute_dtype(const std::string& choice, at::ScalarType stored) {
  if (choice == "auto") return stored == at::kFloat || stored == at::kDouble ? at::kFloat : at::kBFloat16;
  return choice == "bf16" ? at::kBFloat16 : at::kFloat;
}

}  // namespace

StoredPart stored_part(const models::wan::PartFiles& files, Part part) {
  // As in models::wan::load_model: only the original transformer's folder holds files of several parts.
  const bool original = part == Part::kTransformer && std::filesystem::is_directory(files.weights);
  StoredPart result;
  std::map<at::ScalarType, int64_t> bytes;
  for (const auto& file : nn::checkpoint_files(files.weights, original ? "diffusion_pytorch_model" : "")) {
    const auto opened = io::SafetensorsFile::open(file);
    for (const auto& entry : opened.entries()) {
      result.parameters += static_cast<int64_t>(entry.size_bytes() / io::size_bytes(entry.dtype));
      bytes[nn::scalar_type(entry.dtype)] += static_cast<int64_t>(entry.size_bytes());
    }
  }
  int64_t most = -1;
  for (const auto& [type, size] : bytes)
    if (size > most) {
      most = size;
      result.dtype = type;
    }
  return result;
}

ModelSession::ModelSession(const std::filesystem::path& path, bool with_text, const std::string& dtype,
                           const std::string& vae_dtype, bool ignore_memory)
    : path_(path) {
  const auto place = models::wan::find_model(path);
  transformer_ = stored_part(models::wan::find_part(place, Part::kTransformer), Part::kTransformer);
  vae_ = stored_part(models::wan::find_part(place, Part::kVae), Part::kVae);
  if (with_text) text_ = stored_part(models::wan::find_part(place, Part::kTextEncoder), Part::kTextEncoder);
  dtype_ = compute_dtype(dtype, transformer_.dtype);
  vae_dtype_ = vae_dtype == "bf16" ? at::kBFloat16 : at::kFloat;

  const int64_t largest = std::max({transformer_bytes(), text_bytes(), vae_bytes()});
  const int64_t available = memory_state().available_bytes;
  FPSA_CHECK(ignore_memory || largest <= available, "memory: expected ", bytes_text(largest),
             " to be available for the weights of the ", largest == text_bytes() ? "text encoder" : "transformer",
             ", got ", bytes_text(available), "; what helps: ", dtype_ == at::kFloat ? "--dtype bf16, " : "",
             largest == text_bytes() ? "--prompt-embeds, " : "",
             "a smaller model; --ignore-memory-check starts anyway");

  models::wan::LoadOptions options;
  options.text_encoder = with_text;
  options.dtype = held_transformer_ = mappable(transformer_.dtype);
  options.text_dtype = held_text_ = mappable(text_.dtype);
  options.vae_dtype = held_vae_ = mappable(vae_.dtype);
  model_ = models::wan::load_model(path, options);
  dit_config_ = model_.transformer->config();
  vae_config_ = model_.vae->config();
}

models::wan::WanModel ModelSession::load(Part part) const {
  models::wan::LoadOptions options;
  options.dtype = options.text_dtype = dtype_;
  options.vae_dtype = vae_dtype_;
  options.transformer = part == Part::kTransformer;
  options.text_encoder = part == Part::kTextEncoder;
  options.vae = part == Part::kVae;
  return models::wan::load_model(path_, options);
}

models::wan::Umt5Encoder& ModelSession::text_encoder() {
  if (!model_.text_encoder || held_text_ != dtype_) {
    model_.text_encoder = load(Part::kTextEncoder).text_encoder;
    held_text_ = dtype_;
  }
  return *model_.text_encoder;
}

models::wan::WanDit& ModelSession::transformer() {
  if (!model_.transformer || held_transformer_ != dtype_) {
    model_.transformer = load(Part::kTransformer).transformer;
    held_transformer_ = dtype_;
  }
  return *model_.transformer;
}

models::wan::WanVae& ModelSession::vae() {
  if (held_vae_ != vae_dtype_) {
    model_.vae = load(Part::kVae).vae;
    held_vae_ = vae_dtype_;
  }
  return *model_.vae;
}

// glibc keeps freed blocks for itself; the next stage wants them as pages.
void ModelSession::release_text_encoder() {
  model_.text_encoder.reset();
  malloc_trim(0);
}

void ModelSession::release_transformer() {
  model_.transformer.reset();
  malloc_trim(0);
}

}  // namespace fpsa::app
