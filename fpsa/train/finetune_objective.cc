#include "fpsa/train/finetune_objective.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <random>

#include "fpsa/base/check.h"
#include "fpsa/models/wan/model.h"
#include "fpsa/models/wan/opened_part.h"
#include "fpsa/nn/checkpoint.h"
#include "fpsa/ops/compute_dtype.h"
#include "fpsa/train/dit_objective.h"
#include "fpsa/train/flow_levels.h"
#include "fpsa/train/lora.h"
#include "fpsa/train/text_conditioner.h"

namespace fpsa::train {
namespace {

using models::wan::Part;

// Purposes of random numbers that follow from one seed.
enum : uint64_t { kPoolStream = 31, kBatchStream, kNoiseStream, kTestStream, kPreviewStream };

constexpr const char* kPrefix = "transformer.";
constexpr int64_t kTestBatches = 4;

// F32 copies of the weights of another source, to be trained or to stay.
class CopySource : public nn::ParameterSource {
 public:
  CopySource(nn::ParameterSource& base, bool trained) : base_(base), trained_(trained) {}
  at::Tensor get(const nn::ParameterSpec& spec) override {
    at::Tensor copy = base_.get(spec).to(at::kFloat, /*non_blocking=*/false, /*copy=*/true);
    copy.requires_grad_(trained_);
    copies.emplace(kPrefix + spec.name, copy);
    return copy;
  }
  nn::TensorMap copies;

 private:
  nn::ParameterSource& base_;
  bool trained_;
};

// Another source's tensors, each asked for once, so that two models share what it converts.
class SharedSource : public nn::ParameterSource {
 public:
  explicit SharedSource(nn::ParameterSource& base) : base_(base) {}
  at::Tensor get(const nn::ParameterSpec& spec) override {
    at::Tensor& tensor = given_[spec.name];
    if (!tensor.defined()) tensor = base_.get(spec);
    return tensor;
  }

 private:
  nn::ParameterSource& base_;
  nn::TensorMap given_;
};

class CachedClips : public ClipSource {
 public:
  explicit CachedClips(std::shared_ptr<const ClipCache> cache) : cache_(std::move(cache)) {}

  void enter(const Stage& stage, int64_t) override {
    bucket_ = {stage.frames, stage.height, stage.width};
    batch_ = stage.batch;
  }
  CaptionedLatents draw(int64_t, double dropout, uint64_t seed) override {
    std::mt19937_64 random(seed);
    std::vector<at::Tensor> latents;
    CaptionedLatents out;
    for (int64_t i = 0; i < batch_; ++i) {
      const auto index = static_cast<int64_t>(random() % static_cast<uint64_t>(cache_->size(bucket_)));
      latents.push_back(cache_->latents(bucket_, index));
      const bool prompted = std::uniform_real_distribution<>()(random) >= dropout;
      out.states.push_back(prompted ? cache_->states(bucket_, index) : cache_->empty_states());
    }
    out.latents = at::stack(latents).to(at::kFloat);
    return out;
  }
  std::vector<EncodedPrompt> captions(int64_t count) override {
    std::vector<EncodedPrompt> out;
    for (int64_t i = 0; i < cache_->size(bucket_) && static_cast<int64_t>(out.size()) < count; ++i)
      if (std::ranges::find(out, cache_->caption(bucket_, i), &EncodedPrompt::text) == out.end())
        out.push_back({cache_->caption(bucket_, i), cache_->states(bucket_, i)});
    return out;
  }
  at::Tensor empty_states() override { return cache_->empty_states(); }

 private:
  std::shared_ptr<const ClipCache> cache_;
  Bucket bucket_{};
  int64_t batch_ = 1;
};

class ProceduralClips : public ClipSource {
 public:
  ProceduralClips(const models::wan::ModelPlace& place, std::filesystem::path folder, uint64_t seed,
                  EncodingProgress progress)
      : codec_(VaeCodec::load(find_part(place, Part::kVae))),
        folder_(std::move(folder)),
        seed_(seed),
        progress_(std::move(progress)) {
    const models::wan::PartFiles files = find_part(place, Part::kTextEncoder);
    encoder_ = models::wan::load_text_encoder(files, {.dtype = ops::fast_compute_dtype()});
    tokenizer_ = std::make_unique<models::wan::Tokenizer>(
        load_tokenizer(place, {}, models::wan::open_part(files, Part::kTextEncoder)));
  }

  void enter(const Stage& stage, int64_t stage_step) override {
    stage_ = stage;
    pool_ = std::make_unique<LatentPool>(stage.frames, stage.height, stage.width, seed_, stage.pool_clips, folder_,
                                         codec_.id(), [this](const at::Tensor& video) { return codec_.encode(video); });
    grow(stage_step, progress_);
  }
  CaptionedLatents draw(int64_t stage_step, double dropout, uint64_t seed) override {
    grow(stage_step);
    std::mt19937_64 random(seed);
    std::vector<at::Tensor> latents;
    CaptionedLatents out;
    for (int64_t i = 0; i < stage_.batch; ++i) {
      const auto& entry = (*pool_)[static_cast<int64_t>(random() % static_cast<uint64_t>(pool_->size()))];
      latents.push_back(entry.latents);
      const bool prompted = std::uniform_real_distribution<>()(random) >= dropout;
      out.states.push_back(encode(prompted ? caption(entry.spec, random()) : ""));
    }
    out.latents = at::stack(latents).to(at::kFloat);
    return out;
  }
  std::vector<EncodedPrompt> captions(int64_t count) override {
    std::vector<EncodedPrompt> out;
    for (int64_t i = 0; i < count; ++i) {
      const std::string text = test_prompt(seed_, i).text;
      out.push_back({text, encode(text)});
    }
    return out;
  }
  at::Tensor empty_states() override { return encode(""); }

 private:
  void grow(int64_t stage_step, const EncodingProgress& progress = {}) {
    const int64_t start = (stage_.pool_start + LatentPool::kChunkClips - 1) / LatentPool::kChunkClips;
    pool_->grow_to(start + (stage_.refresh_every > 0 ? stage_step / stage_.refresh_every : 0), progress);
  }
  at::Tensor encode(const std::string& text) const {
    const at::NoGradGuard no_grad;
    using models::wan::Tokenizer;
    const auto tokens = tokenizer_->encode_batch({text}, Tokenizer::kMaxLength, models::wan::Padding::kLongest);
    return encoder_->encode(tokens.ids, tokens.mask)[0];
  }

  VaeCodec codec_;
  std::filesystem::path folder_;
  uint64_t seed_;
  EncodingProgress progress_;
  std::unique_ptr<models::wan::Umt5Encoder> encoder_;
  std::unique_ptr<models::wan::Tokenizer> tokenizer_;
  Stage stage_;
  std::unique_ptr<LatentPool> pool_;
};

}  // namespace

FinetuneObjective::FinetuneObjective(const Recipe& recipe, const FinetunePaths& paths, const DataHooks& hooks)
    : recipe_(recipe), shift_(recipe.schedule ? recipe.schedule->shift : paths.shift) {
  FPSA_CHECK(recipe.kind == Kind::kDit && recipe.finetunes(),
             "fine-tuning: expected a recipe of kind \"dit\" with [data] or [lora]");
  place_ = models::wan::find_model(paths.model);
  models::wan::OpenedPart part = open_part(find_part(place_, Part::kTransformer), Part::kTransformer);
  const models::wan::DitConfig config = dit_config_of(part);
  // Frozen weights stay in BF16, in the file's own pages where it stores that; trained ones are copied to F32.
  nn::CheckpointSource stored(std::move(part.weights.tensors), recipe.lora ? at::kBFloat16 : at::kFloat, part.origin(),
                              std::move(part.weights.scales));
  if (recipe.lora) {
    SharedSource shared(stored);
    AdapterSource source(shared, *recipe.lora, kPrefix, recipe.seed);
    dit_ = std::make_unique<models::wan::WanDit>(config, nn::Scope(source));
    parameters_ = source.finish();
    if (recipe.distill_weight > 0) make_teacher(config, shared);
  } else {
    CopySource source(stored, /*trained=*/true), copies(stored, /*trained=*/false);
    dit_ = std::make_unique<models::wan::WanDit>(config, nn::Scope(source));
    parameters_ = std::move(source.copies);
    if (recipe.distill_weight > 0) make_teacher(config, copies);
    frozen_ = std::move(copies.copies);
  }
  stored.finish();
  dit_->set_compute_dtype(ops::fast_compute_dtype());
  forward_ = std::make_unique<PhasedForward>(recipe, *dit_);

  if (recipe.data) {
    DataConfig data = *recipe.data;
    if (data.cache.empty()) data.cache = paths.cache;
    cache_ = std::make_shared<ClipCache>(data, buckets_of(recipe), place_, hooks);
    source_ = std::make_unique<CachedClips>(cache_);
  } else {
    source_ = std::make_unique<ProceduralClips>(place_, paths.latents, mix(recipe.seed, kPoolStream), hooks.progress);
  }
  if (!recipe.prompts.empty()) prompts_ = encode_captions(place_, recipe.prompts);
}

void FinetuneObjective::make_teacher(const models::wan::DitConfig& config, nn::ParameterSource& source) {
  teacher_ = std::make_unique<models::wan::WanDit>(config, nn::Scope(source));
  teacher_->set_compute_dtype(ops::fast_compute_dtype());
}

FinetuneObjective::~FinetuneObjective() = default;

bool FinetuneObjective::is_matrix(const std::string& name, const at::Tensor& weight) const {
  return !recipe_.lora && weight.dim() == 2 && name.find("proj_out") == std::string::npos;
}

void FinetuneObjective::enter(const Stage& stage, int64_t, int64_t stage_step) {
  stage_ = stage;
  source_->enter(stage, stage_step);
}

at::Tensor FinetuneObjective::flow_loss(const CaptionedLatents& batch, uint64_t noise_seed, Figures& figures,
                                        at::Tensor* distill) {
  auto generator = at::detail::createCPUGenerator(noise_seed);
  const at::Tensor& data = batch.latents;
  const at::Tensor noise = at::randn(data.sizes(), generator, at::kFloat);
  const at::Tensor sigma = draw_sigmas(data.size(0), stage_.shift, generator);
  const TextCondition text = condition_on(batch.states);
  nn::DenoiserInput input;
  input.latents = data + sigma.view({-1, 1, 1, 1, 1}) * (noise - data);
  input.timestep = sigma * 1000.0;
  input.text = text.states;
  models::wan::DitOptions options;
  options.rope_stretch = {stage_.stretch[0], stage_.stretch[1], stage_.stretch[2]};
  options.text_multiplicity = text.multiplicity;
  const at::Tensor velocity = forward_->run(input, options, sigma, figures).velocity.to(at::kFloat);
  if (distill && teacher_) {
    at::Tensor target;
    {
      const at::NoGradGuard no_grad;
      target = teacher_->forward(input, *accel::make_dense(), options).velocity.to(at::kFloat);
    }
    *distill = at::mse_loss(velocity, target);
  }
  return at::mse_loss(velocity, noise - data);
}

Loss FinetuneObjective::loss(int64_t step, int64_t stage_step, int64_t micro) {
  const auto seed = [&](uint64_t stream) {
    return mix(recipe_.seed, stream, static_cast<uint64_t>(step), static_cast<uint64_t>(micro));
  };
  const CaptionedLatents batch = source_->draw(stage_step, recipe_.prompt_dropout, seed(kBatchStream));
  forward_->attend(stage_, stage_step);
  Loss loss;
  at::Tensor distill;
  loss.total = flow_loss(batch, seed(kNoiseStream), loss.figures, &distill);
  loss.samples = batch.latents.size(0);
  loss.figures["flow"] = loss.total.item<double>();
  if (distill.defined()) {
    loss.figures["distill"] = distill.item<double>();
    loss.total = loss.total + recipe_.distill_weight * distill;
  }
  return loss;
}

void FinetuneObjective::write_sheet(const std::filesystem::path& file) {
  const auto prompts = prompts_.empty() ? source_->captions(recipe_.preview_prompts) : prompts_;
  if (prompts.empty()) return;
  SampleOptions options;
  options.latent_size = {(stage_.frames - 1) / 4 + 1, stage_.height / 8, stage_.width / 8};
  options.stretch = {stage_.stretch[0], stage_.stretch[1], stage_.stretch[2]};
  options.steps = recipe_.preview_steps;
  options.shift = shift_;
  options.guidance = recipe_.preview_guidance;
  const auto attention = recipe_.schedule ? accel::make_fps(*recipe_.schedule) : accel::make_dense();
  write_previews(file, *dit_, *attention, place_, prompts, source_->empty_states(), mix(recipe_.seed, kPreviewStream),
                 options);
}

Figures FinetuneObjective::evaluate(const std::filesystem::path& folder, const std::string& tag, bool) {
  write_sheet(folder / (tag + ".png"));
  double sum = 0;
  Figures ignored;
  forward_->attend(stage_, stage_.density_steps);  // the recipe's own schedule: what the model would be run with
  for (uint64_t i = 0; i < kTestBatches; ++i) {
    const uint64_t seed = mix(recipe_.seed, kTestStream, i);
    sum += flow_loss(source_->draw(0, /*dropout=*/0, seed), seed, ignored).item<double>();
  }
  return {{"flow_fixed", sum / static_cast<double>(kTestBatches)}};
}

const DataReport* FinetuneObjective::report() const {
  return cache_ ? &cache_->report() : nullptr;
}

}  // namespace fpsa::train
