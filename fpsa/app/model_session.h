// A model opened for one run: checked as a whole at the start, its parts brought into memory stage by stage.
//
// Opening reads headers and configurations only. A part is loaded in the dtype that it computes in when its stage
// begins, and given back when it ends: no two stages' weights are in memory together, except the transformer's and the
// VAE's while several clips are made.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "fpsa/app/attention_choice.h"
#include "fpsa/diffusion/sigmas.h"
#include "fpsa/models/wan/describe.h"
#include "fpsa/models/wan/model.h"

namespace fpsa::app {

/// The sampler settings of a place: its scheduler_config.json, or what the original repository takes by default.
///   Errors    fpsa::Error naming the file: everything diffusion::SchedulerConfig refuses
diffusion::SchedulerConfig scheduler_of(const models::wan::ModelPlace& place);

class ModelSession {
 public:
  /// `dtype` is auto, bf16 or f32; auto is BF16 for a transformer stored in 16 or 8 bits.
  ///   Errors    everything models::wan::load_model refuses
  ModelSession(const std::filesystem::path& path, const models::wan::PartPaths& named, bool with_text,
               const std::string& dtype, const std::string& vae_dtype,
               const std::vector<models::wan::LoraFile>& loras = {});

  at::ScalarType dtype() const { return dtype_; }
  at::ScalarType vae_dtype() const { return vae_dtype_; }
  const models::wan::DitConfig& dit_config() const { return dit_config_; }
  const models::wan::VaeConfig& vae_config() const { return vae_config_; }
  const diffusion::SchedulerConfig& scheduler() const { return scheduler_; }
  /// The TOML schedule that the transformer carries; empty when it has none.
  std::string schedule() const;
  /// That one and those of the LoRAs whose scale is not 0, where they carry any.
  std::vector<CarriedSchedule> schedules() const;
  /// The part as it lies in its files; nullptr for the text encoder of a session without text.
  const models::wan::PartDescription* part(models::wan::Part part) const { return description_.find(part); }

  /// Factors on the transformer's positions, from its next loading on.
  void scale_rope(const models::wan::RopeStretch& factors) { rope_scale_ = factors; }

  /// Loaded at the first call and after a release.
  const models::wan::Tokenizer& tokenizer();
  models::wan::Umt5Encoder& text_encoder();
  models::wan::WanDit& transformer();
  models::wan::WanVae& vae();
  void release_text_encoder();
  void release_transformer();

 private:
  models::wan::WanModel load(models::wan::Part part) const;
  void load_text();

  std::filesystem::path path_;
  models::wan::PartPaths named_;
  std::vector<models::wan::LoraFile> loras_;
  models::wan::Description description_;
  diffusion::SchedulerConfig scheduler_;
  at::ScalarType dtype_ = at::kFloat, vae_dtype_ = at::kFloat;
  models::wan::DitConfig dit_config_;
  models::wan::VaeConfig vae_config_;
  models::wan::RopeStretch rope_scale_;
  std::unique_ptr<models::wan::Tokenizer> tokenizer_;
  std::unique_ptr<models::wan::Umt5Encoder> text_encoder_;
  std::unique_ptr<models::wan::WanDit> transformer_;
  std::unique_ptr<models::wan::WanVae> vae_;
};

}  // namespace fpsa::app
