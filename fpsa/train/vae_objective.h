// Training of the video autoencoder: L1 + 0.5 MSE + 1e-4 KL on crops of procedural clips.
#pragma once

#include <memory>

#include "fpsa/models/wan/vae.h"
#include "fpsa/train/objective.h"

namespace fpsa::train {

/// The tiny autoencoder of the embedded model.
models::wan::VaeConfig tiny_vae_config();

/// A VAE with identity-like initial weights and its loss.
class VaeObjective : public Objective {
 public:
  /// `decoder_only` leaves encoder and quant_conv as they are.
  explicit VaeObjective(uint64_t seed, bool decoder_only = false);

  const nn::TensorMap& parameters() const override { return parameters_; }
  bool is_matrix(const std::string& name, const at::Tensor& weight) const override;
  void enter(const Stage& stage, int64_t index, int64_t stage_step) override { stage_ = stage; }
  Loss loss(int64_t step, int64_t stage_step, int64_t micro = 0) override;
  /// PSNR in dB on held-out whole clips: psnr (33x256x256), psnr_object (pixels of the object alone), psnr_17x128.
  Figures evaluate(const std::filesystem::path& folder, const std::string& tag, bool final) override;

 private:
  uint64_t seed_;
  Stage stage_;
  nn::TensorMap parameters_;
  std::unique_ptr<models::wan::WanVae> vae_;
};

/// Mean and standard deviation of every latent channel over the posterior means of random training clips.
struct LatentStatistics {
  std::vector<double> mean, deviation;
};
LatentStatistics measure_latents(const models::wan::WanVae& vae, uint64_t seed, int64_t clips);

}  // namespace fpsa::train
