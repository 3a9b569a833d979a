#include "fpsa/train/dit_objective.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>

#include <random>

#include "fpsa/base/check.h"
#include "fpsa/ops/compute_dtype.h"
#include "fpsa/train/clip_batch.h"
#include "fpsa/train/flow_levels.h"
#include "fpsa/train/text_conditioner.h"

namespace fpsa::train {
namespace {

// Purposes of random numbers that follow from one seed.
enum : uint64_t { kPoolStream = 11, kBatchStream = 12, kNoiseStream = 13, kPromptStream = 14, kSampleStream = 15 };

models::wan::RopeStretch stretch_of(const Stage& stage) {
  return {stage.stretch[0], stage.stretch[1], stage.stretch[2]};
}

// " [wrong: shape motion]", or nothing.
std::string faults(const Agreement& a) {
  std::string out;
  if (!a.shape) out += " shape";
  if (!a.colour) out += " colour";
  if (!a.background) out += " background";
  if (!a.motion) out += " motion";
  return out.empty() ? out : " [wrong:" + out + "]";
}

}  // namespace

TestPrompt test_prompt(uint64_t seed, int64_t index) {
  const uint64_t clip_seed = mix(seed, kPromptStream, static_cast<uint64_t>(index));
  const ClipSpec spec = random_spec(clip_seed, /*held_out_only=*/true);
  return {spec, caption(spec, clip_seed)};
}

PromptTest test_prompts(DitModel& model, const VaeCodec& codec, const models::wan::Tokenizer& tokenizer,
                        nn::AttentionMethod& attention, int64_t prompts, int64_t keep_clips, uint64_t seed,
                        const SampleOptions& options) {
  const auto [t, h, w] = options.latent_size;
  const int64_t tokens = t * (h / 2) * (w / 2);
  const int64_t batch = std::clamp<int64_t>(4608 / tokens, 1, 16);
  PromptTest out;
  for (int64_t first = 0; first < prompts; first += batch) {
    std::vector<ClipSpec> specs;
    std::vector<std::string> captions;
    for (int64_t i = first; i < std::min(prompts, first + batch); ++i) {
      auto prompt = test_prompt(seed, i);
      specs.push_back(prompt.spec);
      captions.push_back(std::move(prompt.text));
    }
    const at::Tensor latents = sample_latents(model, tokenizer, attention, captions,
                                              mix(seed, kSampleStream, static_cast<uint64_t>(first)), options);
    for (size_t i = 0; i < specs.size(); ++i) {
      const at::Tensor pixels = pixels_of(codec.decode(latents.narrow(0, static_cast<int64_t>(i), 1))[0]);
      const Reading reading =
          check_clip(pixels.const_data_ptr<uint8_t>(), pixels.size(0), pixels.size(1), pixels.size(2));
      out.accuracy.add(specs[i], reading);
      if (static_cast<int64_t>(out.clips.size()) < keep_clips)
        out.clips.push_back({captions[i] + faults(compare(reading, specs[i])), pixels});
    }
  }
  return out;
}

DitObjective::DitObjective(const Recipe& recipe, const DitData& data)
    : recipe_(recipe),
      data_(data),
      codec_(VaeCodec::load(data.vae)),
      tokenizer_(models::wan::Tokenizer::load(data.tokenizer)) {
  nn::RandomInit init(recipe.seed);
  model_ = std::make_unique<DitModel>(init, tokenizer_.vocab_size());
  model_->dit.set_compute_dtype(ops::fast_compute_dtype());
  parameters_ = init.tensors;
  forward_ = std::make_unique<PhasedForward>(recipe, model_->dit);
  if (recipe.distill_weight > 0) {
    nn::RandomInit copies(recipe.seed);
    teacher_ = std::make_unique<DitModel>(copies, tokenizer_.vocab_size(), /*with_helpers=*/false);
    teacher_->dit.set_compute_dtype(ops::fast_compute_dtype());
    frozen_ = copies.tensors;
  }
}

bool DitObjective::is_matrix(const std::string& name, const at::Tensor& weight) const {
  return weight.dim() == 2 && name.find("shared") == std::string::npos &&
         name.find("relative_attention") == std::string::npos && !name.starts_with("helper.") &&
         name.find("proj_out") == std::string::npos;
}

void DitObjective::enter(const Stage& stage, int64_t index, int64_t stage_step) {
  stage_ = stage;
  // Batches of a few (frames, size) pairs recur in recipes; the pool's clips follow from seed and size alone, so that
  // stages of one size share the stored latents.
  pool_ = std::make_unique<LatentPool>(stage.frames, stage.height, stage.width, mix(recipe_.seed, kPoolStream),
                                       stage.pool_clips, data_.latents, codec_.id(),
                                       [this](const at::Tensor& video) { return codec_.encode(video); });
  grow_pool(stage_step, data_.progress);
}

void DitObjective::grow_pool(int64_t stage_step, const EncodingProgress& progress) {
  const int64_t start = (stage_.pool_start + LatentPool::kChunkClips - 1) / LatentPool::kChunkClips;
  pool_->grow_to(start + (stage_.refresh_every > 0 ? stage_step / stage_.refresh_every : 0), progress);
}

// What the starting weights say about the same input, with their own text encoder and dense attention.
at::Tensor DitObjective::teacher_velocity(nn::DenoiserInput input, models::wan::DitOptions options,
                                          const std::vector<std::string>& prompts) {
  at::NoGradGuard no_grad;
  const TextCondition text = encode_prompts(teacher_->text, tokenizer_, prompts);
  input.text = text.states;
  options.text_multiplicity = text.multiplicity;
  options.tap_layer = -1;
  const auto dense = accel::make_dense();
  return teacher_->dit.forward(input, *dense, options).velocity.to(at::kFloat);
}

Loss DitObjective::loss(int64_t step, int64_t stage_step, int64_t micro) {
  grow_pool(stage_step);
  forward_->attend(stage_, stage_step);
  const auto batch_seed = [&](uint64_t stream) {
    return mix(recipe_.seed, stream, static_cast<uint64_t>(step), static_cast<uint64_t>(micro));
  };
  std::mt19937_64 random(batch_seed(kBatchStream));
  auto generator = at::detail::createCPUGenerator(batch_seed(kNoiseStream));

  std::vector<at::Tensor> latents, coverage;
  std::vector<ClipSpec> specs;
  std::vector<std::string> prompts;
  std::vector<bool> prompted;
  for (int64_t i = 0; i < stage_.batch; ++i) {
    const auto& entry = (*pool_)[static_cast<int64_t>(random() % static_cast<uint64_t>(pool_->size()))];
    latents.push_back(entry.latents);
    coverage.push_back(entry.coverage);
    specs.push_back(entry.spec);
    prompted.push_back(std::uniform_real_distribution<>()(random) >= recipe_.prompt_dropout);
    const std::string text = caption(entry.spec, random());
    prompts.push_back(prompted.back() ? text : "");
  }
  const at::Tensor data = at::stack(latents).to(at::kFloat);
  const at::Tensor noise = at::randn(data.sizes(), generator, at::kFloat);
  const at::Tensor sigma = draw_sigmas(stage_.batch, stage_.shift, generator);
  const at::Tensor level = sigma.view({-1, 1, 1, 1, 1});

  const TextCondition text = encode_prompts(model_->text, tokenizer_, prompts);
  nn::DenoiserInput input;
  input.latents = data + level * (noise - data);
  input.timestep = sigma * 1000.0;
  input.text = text.states;
  models::wan::DitOptions options;
  options.rope_stretch = stretch_of(stage_);
  options.text_multiplicity = text.multiplicity;
  options.tap_layer = model_->dit.config().num_layers / 2;
  Loss loss;
  const auto out = forward_->run(input, options, sigma, loss.figures);

  const at::Tensor flow = at::mse_loss(out.velocity.to(at::kFloat), noise - data);
  const at::Tensor slots = slot_loss(model_->slots(text.pooled), specs, prompted);
  const at::Tensor target = at::stack(coverage).to(at::kFloat).mul_(1.0 / 255.0);
  const at::Tensor cover =
      at::binary_cross_entropy_with_logits(model_->coverage(out.tap.to(at::kFloat)).squeeze(-1), target);

  loss.total = flow + recipe_.slot_weight * slots + recipe_.coverage_weight * cover;
  loss.samples = stage_.batch;
  loss.figures["flow"] = flow.item<double>();
  loss.figures["slots"] = slots.item<double>();
  loss.figures["coverage"] = cover.item<double>();
  if (teacher_) {
    const at::Tensor distill = at::mse_loss(out.velocity.to(at::kFloat), teacher_velocity(input, options, prompts));
    loss.total = loss.total + recipe_.distill_weight * distill;
    loss.figures["distill"] = distill.item<double>();
  }
  return loss;
}

Figures DitObjective::evaluate(const std::filesystem::path& folder, const std::string& tag, bool final) {
  const int64_t prompts = final ? std::max(stage_.eval_prompts, recipe_.preview_prompts) : recipe_.preview_prompts;
  if (prompts == 0) return {};
  SampleOptions options;
  options.latent_size = {(stage_.frames - 1) / 4 + 1, stage_.height / 8, stage_.width / 8};
  options.stretch = stretch_of(stage_);
  // The recipe's own schedule, though training may still be denser: what the model would be run with.
  const auto attention = recipe_.schedule ? accel::make_fps(*recipe_.schedule) : accel::make_dense();
  if (recipe_.schedule) options.shift = recipe_.schedule->shift;
  const PromptTest test =
      test_prompts(*model_, codec_, tokenizer_, *attention, prompts, /*keep_clips=*/8, recipe_.seed, options);
  write_contact_sheet(folder / (tag + ".png"), test.clips, /*columns=*/9, /*side=*/96);
  return test.accuracy.figures();
}

}  // namespace fpsa::train
