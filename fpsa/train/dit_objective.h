// Flow matching of the video transformer together with its text encoder, on latents of a frozen autoencoder.
//
// With a schedule in the recipe attention is sparse and quantised while training, as inference will run it: every
// sample attends as the phase of its own noise level says (train/phases.h).
#pragma once

#include <filesystem>
#include <memory>

#include "fpsa/train/accuracy.h"
#include "fpsa/train/contact_sheet.h"
#include "fpsa/train/dit_model.h"
#include "fpsa/train/latent_pool.h"
#include "fpsa/train/objective.h"
#include "fpsa/train/phased_forward.h"
#include "fpsa/train/vae_codec.h"

namespace fpsa::train {

/// The prompt number `index` of those that test_prompts judges under this seed, and what its clip should show.
struct TestPrompt {
  ClipSpec spec;
  std::string text;
};
TestPrompt test_prompt(uint64_t seed, int64_t index);

/// Generates and judges clips of held-out prompts.
struct PromptTest {
  Accuracy accuracy;
  std::vector<SheetClip> clips;  // the first `keep_clips`, labelled with prompt and what the checker disliked
};
PromptTest test_prompts(DitModel& model, const VaeCodec& codec, const models::wan::Tokenizer& tokenizer,
                        nn::AttentionMethod& attention, int64_t prompts, int64_t keep_clips, uint64_t seed,
                        const SampleOptions& options);

struct DitData {
  std::filesystem::path vae;        // folder with config.json and weights
  std::filesystem::path tokenizer;  // tokenizer folder
  std::filesystem::path latents;    // where encoded clips are kept
  EncodingProgress progress = {};   // while a stage's first clips are encoded
};

class DitObjective : public Objective {
 public:
  ///   Errors    fpsa::Error: a part that cannot be loaded, or a schedule with layers or heads that the model lacks
  DitObjective(const Recipe& recipe, const DitData& data);

  const nn::TensorMap& parameters() const override { return parameters_; }
  /// The teacher of the distillation, where the recipe asks for it.
  nn::TensorMap frozen() const override { return frozen_; }
  bool is_matrix(const std::string& name, const at::Tensor& weight) const override;
  void enter(const Stage& stage, int64_t index, int64_t stage_step) override;
  Loss loss(int64_t step, int64_t stage_step, int64_t micro = 0) override;
  /// Accuracy on held-out prompts at the stage's grid under the recipe's attention, and a contact sheet.
  Figures evaluate(const std::filesystem::path& folder, const std::string& tag, bool final) override;

  DitModel& model() { return *model_; }

 private:
  void grow_pool(int64_t stage_step, const EncodingProgress& progress = {});
  at::Tensor teacher_velocity(nn::DenoiserInput input, models::wan::DitOptions options,
                              const std::vector<std::string>& prompts);

  Recipe recipe_;
  DitData data_;
  Stage stage_;
  VaeCodec codec_;
  models::wan::Tokenizer tokenizer_;
  nn::TensorMap parameters_, frozen_;
  std::unique_ptr<DitModel> model_, teacher_;
  std::unique_ptr<PhasedForward> forward_;
  std::unique_ptr<LatentPool> pool_;
};

}  // namespace fpsa::train
