#include "fpsa/train/dit_model.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>

namespace fpsa::train {

models::wan::DitConfig tiny_dit_config() {
  models::wan::DitConfig config;
  config.num_attention_heads = 4;
  config.attention_head_dim = 64;
  config.in_channels = config.out_channels = 8;
  config.text_dim = 128;
  config.freq_dim = 256;
  config.ffn_dim = 640;
  config.num_layers = 6;
  return config;
}

models::wan::Umt5Config tiny_umt5_config(int64_t vocab_size) {
  models::wan::Umt5Config config;
  config.vocab_size = vocab_size;
  config.d_model = 128;
  config.d_kv = 32;
  config.num_heads = 4;
  config.d_ff = 256;
  config.num_layers = 2;
  return config;
}

DitModel::DitModel(nn::ParameterSource& source, int64_t vocab_size, bool with_helpers)
    : dit(tiny_dit_config(), nn::Scope(source, "transformer")),
      text(tiny_umt5_config(vocab_size), nn::Scope(source, "text_encoder")) {
  if (!with_helpers) return;
  const nn::Scope helper(source, "helper");
  slots = nn::Linear(helper / "slots", text.config().d_model, kSlotLogits);
  coverage = nn::Linear(helper / "coverage", dit.config().dim(), 1);
}

at::Tensor sample_latents(models::wan::WanDit& dit, nn::AttentionMethod& attention, const TextCondition& text,
                          uint64_t seed, const SampleOptions& options) {
  at::NoGradGuard no_grad;
  const int64_t count = text.states.size(0) / 2;
  auto generator = at::detail::createCPUGenerator(seed);
  const auto [t, h, w] = options.latent_size;
  at::Tensor x = at::randn({count, dit.config().in_channels, t, h, w}, generator, at::kFloat);
  const auto sigma = [&](int64_t step) {
    const double u = 1.0 - static_cast<double>(step) / static_cast<double>(options.steps);
    return options.shift * u / (1.0 + (options.shift - 1.0) * u);
  };
  for (int64_t step = 0; step < options.steps; ++step) {
    nn::DenoiserInput input;
    input.latents = at::cat({x, x});
    input.timestep = at::full({2 * count}, 1000.0 * sigma(step), at::kFloat);
    input.text = text.states;
    input.step = step;
    input.num_steps = options.steps;
    models::wan::DitOptions dit_options;
    dit_options.rope_stretch = options.stretch;
    dit_options.text_multiplicity = text.multiplicity;
    const auto halves = dit.forward(input, attention, dit_options).velocity.to(at::kFloat).chunk(2);
    const at::Tensor velocity = halves[1] + options.guidance * (halves[0] - halves[1]);
    x = x + (sigma(step + 1) - sigma(step)) * velocity;
  }
  return x;
}

at::Tensor sample_latents(DitModel& model, const models::wan::Tokenizer& tokenizer, nn::AttentionMethod& attention,
                          const std::vector<std::string>& prompts, uint64_t seed, const SampleOptions& options) {
  at::NoGradGuard no_grad;
  std::vector<std::string> both = prompts;
  both.resize(prompts.size() * 2);  // the second half is the empty prompt
  return sample_latents(model.dit, attention, encode_prompts(model.text, tokenizer, both), seed, options);
}

}  // namespace fpsa::train
