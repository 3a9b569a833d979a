#include "fpsa/app/sampling_run.h"


#include <iostream>

#include "fpsa/app/attention_choice.h"
#include "fpsa/app/interrupt.h"
#include "fpsa/app/machine.h"
#include "fpsa/app/progress.h"
#include "fpsa/app/prompts.h"
#include "fpsa/kernel/cuda/cuda.h"

namespace fpsa::app {

void say(const std::string& text) {
  std::cerr << "fpsa: " << text << '\n';
}

std::string dtype_word(at::ScalarType type) {
  return type == at::kBFloat16 ? "bf16" : "f32";
}

void choose_device(const GenerateOptions& options) {
  const std::string missing(kernel::cuda::unavailable_reason());
  FPSA_CHECK(options.device != "cuda", "--device: expected cpu or auto, got cuda; ",
             missing.empty() ? "the models of this version run on the CPU" : missing);
  if (options.device == "auto") say("device: cpu (" + (missing.empty() ? "the models run there" : missing) + ")");
  use_threads(options.threads);
}

std::vector<std::string> prompts_of(const GenerateOptions& options) {
  return options.prompt_file.empty() ? std::vector<std::string>{options.prompt} : read_prompt_file(options.prompt_file);
}

diffusion::SchedulerConfig scheduler_for(const GenerateOptions& options, const ModelSession& model) {
  auto scheduler = model.scheduler();
  scheduler.shift = options.flow_shift.value_or(scheduler.shift);
  if (!options.sampler.empty()) scheduler.sampler = diffusion::sampler_from_name(options.sampler);
  scheduler.check();
  return scheduler;
}

MemoryRequest memory_request(const ModelSession& model, const ClipShape& shape) {
  using models::wan::Part;
  MemoryRequest request;
  request.dit = model.dit_config();
  request.vae = model.vae_config();
  request.shape = shape;
  request.dit_weights = model.part(Part::kTransformer)->weights;
  request.vae_weights = model.part(Part::kVae)->weights;
  if (const auto* text = model.part(Part::kTextEncoder)) {
    request.text = models::wan::Umt5Config::from_json(text->config);
    request.text_weights = text->weights;
  }
  request.element_bytes = static_cast<int64_t>(c10::elementSize(model.dtype()));
  request.vae_element_bytes = static_cast<int64_t>(c10::elementSize(model.vae_dtype()));
  request.batch = 1;
  return request;
}

int64_t comfortable_bytes() {
  constexpr double kShare = 0.6;
  return static_cast<int64_t>(kShare * static_cast<double>(memory_state().total_bytes));
}

diffusion::GuidanceRun choose_guidance(const GenerateOptions& options, MemoryRequest& request) {
  const bool guided = options.guidance_scale > 1;
  request.batch = guided && options.cfg != "sequential" ? 2 : 1;
  if (options.cfg == "auto" && request.batch == 2 && plan_memory(request).denoise_bytes > comfortable_bytes()) {
    request.batch = 1;
    say("guidance: one prediction after the other, a batch of two would need " +
        bytes_text(plan_memory(request).denoise_bytes) + " or more");
  }
  return request.batch == 2 ? diffusion::GuidanceRun::kBatched : diffusion::GuidanceRun::kSequential;
}

std::vector<TextStates> encode_texts(const GenerateOptions& options, ModelSession& model,
                                     const std::vector<std::string>& prompts) {
  const bool guided = options.guidance_scale > 1;
  if (!options.prompt_embeds.empty())
    return {read_prompt_embeds(options.prompt_embeds, models::wan::Tokenizer::kMaxLength, model.dit_config().text_dim,
                               guided)};
  std::vector<TextStates> texts;
  at::Tensor negative;
  if (guided) negative = encode_prompt(model, options.negative_prompt);
  for (const auto& prompt : prompts) {
    throw_if_interrupted();
    texts.push_back({encode_prompt(model, prompt), negative});
  }
  model.release_text_encoder();
  return texts;
}

at::Tensor denoise_clip(ModelSession& model, nn::AttentionMethod& attention, const at::Tensor& initial,
                        const TextStates& text, diffusion::LoopOptions loop, const std::string& label,
                        const std::function<void(double seconds)>& on_step) {
  Progress progress(progress_on_stderr(), label, "step", loop.steps);
  loop.progress = [&](int64_t done, int64_t, double seconds) {
    throw_if_interrupted();
    if (on_step) on_step(seconds);
    progress.advance_to(done);
  };
  InterruptibleAttention interruptible(attention);
  return diffusion::denoise(model.transformer(), interruptible, initial, text.positive, text.negative, loop);
}

}  // namespace fpsa::app
