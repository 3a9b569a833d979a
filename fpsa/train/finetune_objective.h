// Fine-tuning of a given model's transformer, whole or by LoRA adapters, by flow matching on latents of a frozen VAE
// under captions of a frozen text encoder; with the recipe's attention schedule active, where it has one.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "fpsa/models/wan/dit.h"
#include "fpsa/models/wan/text_encoder.h"
#include "fpsa/models/wan/tokenizer.h"
#include "fpsa/train/data_cache.h"
#include "fpsa/train/latent_pool.h"
#include "fpsa/train/objective.h"
#include "fpsa/train/phased_forward.h"
#include "fpsa/train/previews.h"
#include "fpsa/train/vae_codec.h"

namespace fpsa::train {

struct FinetunePaths {
  std::filesystem::path model;    // in any layout that models::wan::find_model knows
  std::filesystem::path cache;    // for [data] without a cache of its own
  std::filesystem::path latents;  // of procedural clips, for recipes without [data]
  double shift = 5.0;             // of the model's sampler: what previews use where no schedule says its own
};

/// The parts that training needs beside the transformer: a batch of latents and what they are attended with.
struct CaptionedLatents {
  at::Tensor latents;              // [B, C, T, H, W] F32, normalised
  std::vector<at::Tensor> states;  // of each caption, [tokens, d_model]
};

/// Where a stage's clips come from. Everything random follows from the generator.
class ClipSource {
 public:
  virtual ~ClipSource() = default;
  virtual void enter(const Stage& stage, int64_t stage_step) = 0;
  /// A batch for a step; each caption is replaced by the empty prompt with probability `dropout`.
  virtual CaptionedLatents draw(int64_t stage_step, double dropout, uint64_t seed) = 0;
  /// At most `count` captions of the stage, always the same and each once, for previews.
  virtual std::vector<EncodedPrompt> captions(int64_t count) = 0;
  virtual at::Tensor empty_states() = 0;
};

class FinetuneObjective : public Objective {
 public:
  /// Loads the model and, with [data], prepares the cache.
  ///   Errors    fpsa::Error: everything that find_model, ClipCache and AdapterSource refuse
  FinetuneObjective(const Recipe& recipe, const FinetunePaths& paths, const DataHooks& hooks = {});
  ~FinetuneObjective() override;

  /// "transformer.*": all weights in F32, or with [lora] the adapters alone.
  const nn::TensorMap& parameters() const override { return parameters_; }
  /// The teacher's weights, where the recipe distils and all weights are trained. With [lora] the teacher is the model
  /// without its adapters, on the same memory.
  nn::TensorMap frozen() const override { return frozen_; }
  /// Adapters are AdamW's: Muon would blow up the factor that starts at zero to full size in its first steps.
  bool is_matrix(const std::string& name, const at::Tensor& weight) const override;
  void enter(const Stage& stage, int64_t index, int64_t stage_step) override;
  Loss loss(int64_t step, int64_t stage_step, int64_t micro = 0) override;
  /// "flow_fixed": the loss on batches that never change, prompts in place. Writes a sheet of previews: of the recipe's
  /// prompts, else of its first captions, under the recipe's own schedule.
  Figures evaluate(const std::filesystem::path& folder, const std::string& tag, bool final) override;

  /// What preparing the videos found; null without [data].
  const DataReport* report() const;

 private:
  // The loss against the clips' flow, and with `distill` also that against the teacher's velocity (undefined without
  // a teacher).
  at::Tensor flow_loss(const CaptionedLatents& batch, uint64_t noise_seed, Figures& figures,
                       at::Tensor* distill = nullptr);
  void make_teacher(const models::wan::DitConfig& config, nn::ParameterSource& source);
  void write_sheet(const std::filesystem::path& file);

  Recipe recipe_;
  Stage stage_;
  models::wan::ModelPlace place_;
  double shift_;
  nn::TensorMap parameters_, frozen_;
  std::unique_ptr<models::wan::WanDit> dit_, teacher_;
  std::unique_ptr<PhasedForward> forward_;
  std::shared_ptr<ClipCache> cache_;
  std::unique_ptr<ClipSource> source_;
  std::vector<EncodedPrompt> prompts_;  // the recipe's
};

}  // namespace fpsa::train
