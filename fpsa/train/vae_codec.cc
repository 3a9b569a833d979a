#include "fpsa/train/vae_codec.h"

#include <ATen/core/grad_mode.h>

#include <cmath>
#include <cstdio>

#include "fpsa/base/check.h"
#include "fpsa/io/json.h"
#include "fpsa/nn/checkpoint.h"

namespace fpsa::train {
VaeCodec VaeCodec::load(const std::filesystem::path& folder) {
  VaeCodec codec;
  codec.config_ = models::wan::VaeConfig::from_json(io::read_json(folder / "config.json"));
  const auto file = folder / "diffusion_pytorch_model.safetensors";
  auto loaded = nn::load_tensors(file);
  double sum = 0;
  for (const auto& [name, tensor] : loaded.tensors)
    sum += tensor.to(at::kDouble).abs().sum().item<double>();
  nn::CheckpointSource source(std::move(loaded.tensors), at::kBFloat16, file.string());
  codec.vae_ = std::make_shared<models::wan::WanVae>(codec.config_, nn::Scope(source));
  source.finish();
  for (const auto* list : {&codec.config_.latents_mean, &codec.config_.latents_std})
    for (const double value : *list)
      sum += std::abs(value);
  char id[40];
  std::snprintf(id, sizeof id, "%.12e", sum);
  codec.id_ = id;
  return codec;
}

at::Tensor VaeCodec::encode(const at::Tensor& video) const {
  at::NoGradGuard no_grad;
  const at::Tensor moments = vae_->encode(video.to(at::kBFloat16));
  return vae_->normalise(models::wan::WanVae::posterior(moments).mean.to(at::kFloat));
}

at::Tensor VaeCodec::decode(const at::Tensor& latents) const {
  at::NoGradGuard no_grad;
  return vae_->decode(vae_->denormalise(latents.to(at::kFloat)).to(at::kBFloat16)).to(at::kFloat);
}

}  // namespace fpsa::train
