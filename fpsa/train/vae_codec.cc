#include "fpsa/train/vae_codec.h"

#include <ATen/core/grad_mode.h>

#include <cmath>
#include <cstdio>

#include "fpsa/models/wan/model.h"
#include "fpsa/models/wan/opened_part.h"
#include "fpsa/ops/compute_dtype.h"

namespace fpsa::train {

VaeCodec VaeCodec::load(const std::filesystem::path& folder) {
  return load(models::wan::PartFiles{folder / "diffusion_pytorch_model.safetensors", folder / "config.json"});
}

VaeCodec VaeCodec::load(const models::wan::PartFiles& files) {
  VaeCodec codec;
  double sum = 0;
  for (const auto& [name, tensor] : models::wan::open_part(files, models::wan::Part::kVae).weights.tensors)
    sum += tensor.to(at::kDouble).abs().sum().item<double>();
  codec.vae_ = models::wan::load_vae(files, {.dtype = ops::fast_compute_dtype()});
  codec.config_ = codec.vae_->config();
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
  const at::Tensor moments = vae_->encode(video.to(ops::fast_compute_dtype()));
  return vae_->normalise(models::wan::WanVae::posterior(moments).mean.to(at::kFloat));
}

at::Tensor VaeCodec::decode(const at::Tensor& latents) const {
  at::NoGradGuard no_grad;
  return vae_->decode(vae_->denormalise(latents.to(at::kFloat)).to(ops::fast_compute_dtype())).to(at::kFloat);
}

}  // namespace fpsa::train
