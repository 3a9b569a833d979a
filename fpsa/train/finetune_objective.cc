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
#include "fpsa/train/flow_levels.h"
#include "fpsa/train/lora.h"
#include "fpsa/train/text_conditioner.h"

namespace fpsa::train {
namespace {

using models::wan::Part;

// Purposes of random numbers that follow from one seed.
enum : uint64_t { kPoolStream = 31, kBatchStream, kNoiseStream, kTestStream };

constexpr const char* kPrefix = "transformer.";
constexpr int64_t kTestBatches = 4;

// F32 leaves with the weights of another source.
class LeafSource : public nn::ParameterSource {
 public:
  explicit LeafSource(nn::ParameterSource& base) : base_(base) {}
  at::Tensor get(const nn::ParameterSpec& spec) override {
    at::Tensor leaf = base_.get(spec).to(at::kFloat, /*non_blocking=*/false, /*copy=*/true);
    leaf.requires_grad_(true);
    leaves.emplace(kPrefix + spec.name, leaf);
    return leaf;
  }
  nn::TensorMap leaves;

 private:
  nn::ParameterSource& base_;
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

 private:
  std::shared_ptr<const ClipCache> cache_;
  Bucket bucket_{};
  int64_t batch_ = 1;
};

class ProceduralClips : public ClipSource {
 public:
  ProceduralClips(const models::wan::ModelPlace& place, std::filesystem::path folder, uint64_t seed)
      : codec_(VaeCodec::load(find_part(place, Part::kVae))), folder_(std::move(folder)), seed_(seed) {
    const models::wan::PartFiles files = find_part(place, Part::kTextEncoder);
    encoder_ = models::wan::load_text_encoder(files, {.dtype = ops::fast_compute_dtype()});
    tokenizer_ = std::make_unique<models::wan::Tokenizer>(
        load_tokenizer(place, {}, models::wan::open_part(files, Part::kTextEncoder)));
  }

  void enter(const Stage& stage, int64_t stage_step) override {
    stage_ = stage;
    pool_ = std::make_unique<LatentPool>(stage.frames, stage.height, stage.width, seed_, stage.pool_clips, folder_,
                                         codec_.id(), [this](const at::Tensor& video) { return codec_.encode(video); });
    grow(stage_step);
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

 private:
  void grow(int64_t stage_step) {
    const int64_t start = (stage_.pool_start + LatentPool::kChunkClips - 1) / LatentPool::kChunkClips;
    pool_->grow_to(start + (stage_.refresh_every > 0 ? stage_step / stage_.refresh_every : 0));
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
  std::unique_ptr<models::wan::Umt5Encoder> encoder_;
  std::unique_ptr<models::wan::Tokenizer> tokenizer_;
  Stage stage_;
  std::unique_ptr<LatentPool> pool_;
};

}  // namespace

FinetuneObjective::FinetuneObjective(const Recipe& recipe, const FinetunePaths& paths, const DataHooks& hooks)
    : recipe_(recipe) {
  FPSA_CHECK(recipe.kind == Kind::kDit && recipe.finetunes(),
             "fine-tuning: expected a recipe of kind \"dit\" with [data] or [lora]");
  const models::wan::ModelPlace place = models::wan::find_model(paths.model);
  models::wan::OpenedPart part = open_part(find_part(place, Part::kTransformer), Part::kTransformer);
  const models::wan::DitConfig config = dit_config_of(part);
  // Frozen weights stay in BF16, in the file's own pages where it stores that; trained ones are copied to F32.
  nn::CheckpointSource stored(std::move(part.weights.tensors), recipe.lora ? at::kBFloat16 : at::kFloat, part.origin(),
                              std::move(part.weights.scales));
  if (recipe.lora) {
    AdapterSource source(stored, *recipe.lora, kPrefix, recipe.seed);
    dit_ = std::make_unique<models::wan::WanDit>(config, nn::Scope(source));
    parameters_ = source.finish();
  } else {
    LeafSource source(stored);
    dit_ = std::make_unique<models::wan::WanDit>(config, nn::Scope(source));
    parameters_ = std::move(source.leaves);
  }
  stored.finish();
  dit_->set_compute_dtype(ops::fast_compute_dtype());
  forward_ = std::make_unique<PhasedForward>(recipe, *dit_);

  if (recipe.data) {
    DataConfig data = *recipe.data;
    if (data.cache.empty()) data.cache = paths.cache;
    cache_ = std::make_shared<ClipCache>(data, buckets_of(recipe), place, hooks);
    source_ = std::make_unique<CachedClips>(cache_);
  } else {
    source_ = std::make_unique<ProceduralClips>(place, paths.latents, mix(recipe.seed, kPoolStream));
  }
}

FinetuneObjective::~FinetuneObjective() = default;

bool FinetuneObjective::is_matrix(const std::string& name, const at::Tensor& weight) const {
  return !recipe_.lora && weight.dim() == 2 && name.find("proj_out") == std::string::npos;
}

void FinetuneObjective::enter(const Stage& stage, int64_t, int64_t stage_step) {
  stage_ = stage;
  source_->enter(stage, stage_step);
}

at::Tensor FinetuneObjective::flow_loss(const CaptionedLatents& batch, uint64_t noise_seed, Figures& figures) {
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
  const at::Tensor velocity = forward_->run(input, options, sigma, figures).velocity;
  return at::mse_loss(velocity.to(at::kFloat), noise - data);
}

Loss FinetuneObjective::loss(int64_t step, int64_t stage_step, int64_t micro) {
  const auto seed = [&](uint64_t stream) {
    return mix(recipe_.seed, stream, static_cast<uint64_t>(step), static_cast<uint64_t>(micro));
  };
  const CaptionedLatents batch = source_->draw(stage_step, recipe_.prompt_dropout, seed(kBatchStream));
  forward_->attend(stage_, stage_step);
  Loss loss;
  loss.total = flow_loss(batch, seed(kNoiseStream), loss.figures);
  loss.samples = batch.latents.size(0);
  loss.figures["flow"] = loss.total.item<double>();
  return loss;
}

Figures FinetuneObjective::evaluate(const std::filesystem::path&, const std::string&, bool) {
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
