#include "fpsa/models/wan/opened_part.h"

#include "fpsa/base/check.h"
#include "fpsa/io/json.h"
#include "fpsa/models/wan/deduce.h"

namespace fpsa::models::wan {
namespace {

bool is_original(const nlohmann::json& config) {
  return config.is_object() && config.contains("dim");
}

// Errors of a config reader name the key; this adds the file.
template <class Read>
auto with_origin(const std::filesystem::path& file, Read read) {
  try {
    return read();
  } catch (const Error& error) {
    throw Error(join(file.string(), ": ", error.what()));
  }
}

}  // namespace

std::string_view checkpoint_stem(const PartFiles& files, Part part) {
  return part == Part::kTransformer && std::filesystem::is_directory(files.weights) ? "diffusion_pytorch_model" : "";
}

OpenedPart open_part(const PartFiles& files, Part part) {
  nn::LoadedTensors loaded = nn::load_tensors(files.weights, checkpoint_stem(files, part));
  OpenedPart opened;
  opened.files = files;
  opened.weights = rename_part(std::move(loaded.tensors), part, files.weights.string());
  opened.metadata = std::move(loaded.metadata);
  if (!files.config.empty()) opened.config = io::read_json(files.config);
  return opened;
}

DitConfig dit_config_of(const OpenedPart& part) {
  if (part.config.is_null()) return deduce_dit_config(part.weights.tensors, part.origin());
  if (is_original(part.config)) return dit_config_from_original(part.config, part.files.config.string());
  DitConfig config = with_origin(part.files.config, [&] { return DitConfig::from_json(part.config); });
  refuse_unsupported_sizes(config, part.files.config.string());
  return config;
}

VaeConfig vae_config_of(const OpenedPart& part) {
  if (part.config.is_null()) return deduce_vae_config(part.weights.tensors, part.origin());
  return with_origin(part.files.config, [&] { return VaeConfig::from_json(part.config); });
}

Umt5Config text_config_of(const OpenedPart& part) {
  if (part.config.is_null()) return deduce_text_config(part.weights.tensors, part.origin());
  return with_origin(part.files.config, [&] { return Umt5Config::from_json(part.config); });
}

Tokenizer load_tokenizer(const ModelPlace& place, const PartPaths& named, const OpenedPart& text) {
  const std::filesystem::path path = find_tokenizer(place, named);
  if (!path.empty()) return Tokenizer::load(path);
  const at::Tensor& carried = text.weights.spiece_model;
  if (!carried.defined())
    throw MissingPart(join(place.root.string(), ": no tokenizer here (tokenizer/spiece.model, google/umt5-xxl/, ",
                           "text_encoders/spiece.model), and the text encoder's file carries none; download UMT5's ",
                           "tokenizer folder and name it by --tokenizer PATH"));
  return Tokenizer::parse({static_cast<const char*>(carried.const_data_ptr()), carried.nbytes()},
                          text.origin() + ", tensor 'spiece_model'");
}

void check_fit(const std::string& origin, const DitConfig* dit, const VaeConfig* vae, const Umt5Config* text,
               const Tokenizer* tokenizer) {
  if (dit && vae)
    FPSA_CHECK(dit->in_channels == vae->z_dim, origin, ": the transformer works on ", dit->in_channels,
               " latent channels, the VAE on ", vae->z_dim, "; they belong to different models");
  if (dit && text)
    FPSA_CHECK(dit->text_dim == text->d_model, origin, ": the transformer expects text states of width ", dit->text_dim,
               ", the text encoder gives ", text->d_model, "; they belong to different models");
  if (tokenizer && text)
    FPSA_CHECK(tokenizer->vocab_size() <= text->vocab_size, origin, ": the tokenizer has ", tokenizer->vocab_size(),
               " pieces, the text encoder ", text->vocab_size, " embeddings; they belong to different models");
}

}  // namespace fpsa::models::wan
