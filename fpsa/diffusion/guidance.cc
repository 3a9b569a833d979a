#include "fpsa/diffusion/guidance.h"

#include "fpsa/base/check.h"

namespace fpsa::diffusion {

at::Tensor guided_velocity(nn::Denoiser& model, nn::AttentionMethod& attention, const nn::DenoiserInput& input,
                           const at::Tensor& negative, double scale, GuidanceRun run) {
  if (scale <= 1.0) return model.predict(input, attention).to(at::kFloat);

  FPSA_CHECK(negative.defined() && negative.sizes() == input.text.sizes(),
             "guidance needs text states of the negative prompt with the prompt's shape ", input.text.sizes(),
             ", received ", negative.defined() ? join(negative.sizes()) : "none", "; or set the guidance scale to 1");
  at::Tensor with, without;
  if (run == GuidanceRun::kBatched) {
    nn::DenoiserInput both = input;
    both.latents = at::cat({input.latents, input.latents});
    both.timestep = at::cat({input.timestep, input.timestep});
    both.text = at::cat({negative.to(input.text.scalar_type()), input.text});
    const auto halves = model.predict(both, attention).to(at::kFloat).chunk(2);
    without = halves[0];
    with = halves[1];
  } else {
    with = model.predict(input, attention).to(at::kFloat);
    nn::DenoiserInput other = input;
    other.text = negative;
    without = model.predict(other, attention).to(at::kFloat);
  }
  return without + (with - without) * scale;
}

}  // namespace fpsa::diffusion
