// Parity cases of the VAE. Config: {"vae": config.json of AutoencoderKLWan, "tiling": [tile_y, tile_x, stride_y,
// stride_x] (optional)}; the whole-sequence results come along so that one run checks both ways.
#include <optional>

#include "fpsa/models/wan/vae.h"
#include "tests/tools/parity.h"

namespace fpsa::parity {
namespace {

using models::wan::VaeConfig;
using models::wan::VaeTiling;
using models::wan::WanVae;

WanVae build(const nlohmann::json& config, const nn::TensorMap& in) {
  MapSource source(in);
  WanVae vae(VaeConfig::from_json(config.at("vae")), nn::Scope(source));
  source.finish();
  return vae;
}

std::optional<VaeTiling> tiling_of(const nlohmann::json& config) {
  if (!config.contains("tiling")) return {};
  const nlohmann::json& t = config.at("tiling");
  return VaeTiling{t.at(0), t.at(1), t.at(2), t.at(3)};
}

// video -> moments, whole (moments by encode_whole, without tiling), normalised (the mean as the DiT sees it)
void encode(const nlohmann::json& config, const nn::TensorMap& in, nn::TensorMap& out) {
  WanVae vae = build(config, in);
  at::Tensor moments = vae.encode(need(in, "video"), tiling_of(config));
  out["moments"] = moments;
  out["normalised"] = vae.normalise(WanVae::posterior(moments).mean).contiguous();
  if (!config.contains("tiling")) out["whole"] = vae.encode_whole(need(in, "video")).contiguous();
}

// latents -> video, whole (decode_whole, clamped), denormalised
void decode(const nlohmann::json& config, const nn::TensorMap& in, nn::TensorMap& out) {
  WanVae vae = build(config, in);
  out["video"] = vae.decode(need(in, "latents"), tiling_of(config)).contiguous();
  out["denormalised"] = vae.denormalise(need(in, "latents")).contiguous();
  if (!config.contains("tiling")) out["whole"] = vae.decode_whole(need(in, "latents")).clamp(-1, 1).contiguous();
}

// -> one empty tensor per parameter under its name, shaped [its shape..., 0]
void names(const nlohmann::json& config, const nn::TensorMap&, nn::TensorMap& out) {
  nn::SpecCollector collector;
  WanVae vae(VaeConfig::from_json(config.at("vae")), nn::Scope(collector));
  for (const nn::ParameterSpec& spec : collector.specs) {
    std::vector<int64_t> shape = spec.shape;
    shape.push_back(0);
    out[spec.name] = at::empty(shape, at::kFloat);
  }
}

ParityCase encode_case("vae.encode", encode);
ParityCase decode_case("vae.decode", decode);
ParityCase names_case("vae.names", names);

}  // namespace
}  // namespace fpsa::parity
