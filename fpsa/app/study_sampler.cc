#include "fpsa/app/study_sampler.h"

#include <chrono>
#include <set>

#include "fpsa/app/decode.h"
#include "fpsa/app/machine.h"

namespace fpsa::app {
namespace {

double since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

}  // namespace

StudySampler::StudySampler(const GenerateOptions& options) : options_(options) {
  auto& session = model(options.model);
  shape_ = clip_shape(options.num_frames, options.height, options.width, session.dit_config(), session.vae_config());
  loop_.scheduler = scheduler_for(options, session);
  loop_.steps = options.steps;
  loop_.guidance_scale = options.guidance_scale;
  auto request = memory_request(session, shape_);
  loop_.guidance_run = choose_guidance(options, request);
  request.tiled_vae = plan_memory(request).decode_bytes > comfortable_bytes();
  if (request.tiled_vae) {
    tiling_ = models::wan::VaeTiling{};
    say("VAE: decoding in tiles, whole frames would need more memory than is comfortable here");
  }
  if (!options.ignore_memory) check_memory(plan_memory(request), request, memory_state().available_bytes);
}

StudySampler::Model& StudySampler::model_of(const std::filesystem::path& folder) {
  auto& model = models_[folder];
  if (!model.session) {
    model.session = std::make_unique<ModelSession>(folder, models::wan::PartPaths{}, /*with_text=*/true, options_.dtype,
                                                   options_.vae_dtype);
    model.session->scale_rope(options_.rope_scale);
  }
  return model;
}

void StudySampler::add(const Arm& arm) {
  const auto& session = *model_of(arm.model).session;
  const auto& dit = session.dit_config();
  const auto own = clip_shape(options_.num_frames, options_.height, options_.width, dit, session.vae_config());
  FPSA_CHECK(own.latents == shape_.latents && own.grid == shape_.grid, "arm ", arm.name, ": expected a model whose ",
             "clips have the latents and tokens of ", options_.model.string(), ", got ", arm.model.string(),
             " with another VAE or patch size");
  GenerateOptions request = options_;
  request.attention = arm.method;
  request.schedule.clear();
  std::vector<CarriedSchedule> carried;
  if (arm.schedule) carried.push_back({.toml = schedule::to_toml(*arm.schedule)});
  try {
    methods_[arm.name] = choose_attention(request, carried, shape_.grid, dit.num_layers, dit.num_attention_heads);
    if (arm.coding) methods_[arm.name].method = accel::make_fps(*arm.schedule, *arm.coding);
  } catch (const Error& error) {
    throw Error(join("arm ", arm.name, ": ", error.what()));
  }
}

std::string StudySampler::weights(const Arm& arm) {
  using models::wan::Part;
  auto& model = model_of(arm.model);
  if (model.digest.empty())
    model.digest =
        weights_digest({model.session->part(Part::kTransformer)->source,
                        model.session->part(Part::kTextEncoder)->source, model.session->part(Part::kVae)->source});
  return model.digest;
}

void StudySampler::encode(const std::vector<std::string>& prompts,
                          const std::map<std::filesystem::path, std::vector<int64_t>>& needed) {
  for (const auto& [folder, indices] : needed) {
    auto& model = model_of(folder);
    std::vector<std::string> chosen;
    for (const auto index : indices)
      chosen.push_back(prompts[static_cast<size_t>(index)]);
    auto texts = encode_texts(options_, *model.session, chosen);
    for (size_t i = 0; i < indices.size(); ++i)
      model.texts[indices[i]] = std::move(texts[i]);
  }
}

at::Tensor StudySampler::noise(uint64_t seed) const {
  return diffusion::make_noise(seed, {shape_.latents[1], shape_.latents[2], shape_.latents[3], shape_.latents[4]});
}

at::Tensor StudySampler::denoise(const Arm& arm, const at::Tensor& noise, const TextStates& text, int64_t steps,
                                 const std::string& label, double* seconds) {
  auto& choice = methods_.at(arm.name);
  auto& session = *model_of(arm.model).session;
  auto loop = loop_;
  loop.steps = steps;
  choice.method->reset();
  session.transformer().set_e4m3_feed_forward(choice.e4m3_feed_forward);
  return denoise_clip(session, *choice.method, noise, text, loop, label, [&](double step) {
    if (seconds) *seconds += step;
  });
}

// First touch of weights and plans would count against whoever comes first.
void StudySampler::warm_up(const Arm& arm, int64_t prompt) {
  if (warm_[arm.name]) return;
  denoise(arm, noise(0), model_of(arm.model).texts.at(prompt), 1, arm.name + ", warm up", nullptr);
  warm_[arm.name] = true;
}

MadeClip StudySampler::make(const Arm& arm, int64_t prompt, uint64_t seed, const std::string& label) {
  warm_up(arm, prompt);
  MadeClip clip;
  const auto latents =
      denoise(arm, noise(seed), model_of(arm.model).texts.at(prompt), loop_.steps, label, &clip.seconds.denoise);
  check_finite(latents, "of arm " + arm.name);
  const auto& method = *methods_.at(arm.name).method;
  clip.seconds.attention = method.seconds();
  const auto report = method.report();
  std::set<std::string> kernels;
  clip.density = 0;
  for (const auto& entry : report) {
    clip.density += entry.density / static_cast<double>(report.size());
    kernels.insert(entry.kernel);
  }
  clip.kernels.assign(kernels.begin(), kernels.end());
  auto& session = *model_of(arm.model).session;
  session.vae();  // loading is no part of decoding
  const auto begin = std::chrono::steady_clock::now();
  clip.video = decode_video(session.vae(), latents, session.vae_dtype(), tiling_, options_.fps, ProgressStyle{});
  decode_seconds_ = clip.seconds.decode = since(begin);
  return clip;
}

double StudySampler::estimate_seconds(const Arm& arm, int64_t prompt, int64_t steps) {
  warm_up(arm, prompt);
  double seconds = 0;
  const auto latents =
      denoise(arm, noise(0), model_of(arm.model).texts.at(prompt), steps, arm.name + ", estimate", &seconds);
  if (decode_seconds_ == 0) {
    auto& session = *model_of(arm.model).session;
    session.vae();
    const auto begin = std::chrono::steady_clock::now();
    decode_video(session.vae(), latents, session.vae_dtype(), tiling_, options_.fps, ProgressStyle{});
    decode_seconds_ = since(begin);
  }
  return seconds / static_cast<double>(steps) * static_cast<double>(loop_.steps) + decode_seconds_;
}

}  // namespace fpsa::app
