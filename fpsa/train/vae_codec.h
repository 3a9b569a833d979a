// The frozen autoencoder as training of the transformer sees it: videos to normalised latents and back.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "fpsa/models/wan/layouts.h"
#include "fpsa/models/wan/vae.h"
#include "fpsa/nn/tensor_map.h"

namespace fpsa::train {

class VaeCodec {
 public:
  /// Opens a diffusers-layout folder: config.json and diffusion_pytorch_model.safetensors.
  static VaeCodec load(const std::filesystem::path& folder);
  /// Opens a VAE in any layout that models::wan::find_part finds.
  static VaeCodec load(const models::wan::PartFiles& files);

  /// Changes with the weights and with the latent statistics.
  const std::string& id() const { return id_; }
  const models::wan::VaeConfig& config() const { return config_; }

  /// Posterior means, normalised per channel.
  ///   Shapes    video [B, 3, F, H, W] in [-1, 1]; out [B, z, T, H/8, W/8] F32
  ///   Numerics  BF16 activations
  at::Tensor encode(const at::Tensor& video) const;
  /// The inverse of encode, F32 in and out, BF16 inside.
  at::Tensor decode(const at::Tensor& latents) const;

 private:
  VaeCodec() = default;
  models::wan::VaeConfig config_;
  std::shared_ptr<models::wan::WanVae> vae_;
  std::string id_;
};

}  // namespace fpsa::train
