#include "fpsa/diffusion/loop.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>

#include <chrono>

#include "fpsa/diffusion/sampler.h"

namespace fpsa::diffusion {

at::Tensor make_noise(uint64_t seed, const std::array<int64_t, 4>& shape) {
  for (int64_t size : shape)
    FPSA_CHECK(size >= 1, "noise shape (C, T, H, W) must be positive, received (", shape[0], ", ", shape[1], ", ",
               shape[2], ", ", shape[3], ")");
  at::Generator generator = at::detail::createCPUGenerator(seed);
  return at::randn({1, shape[0], shape[1], shape[2], shape[3]}, generator, at::kFloat);
}

at::Tensor denoise(nn::Denoiser& model, nn::AttentionMethod& attention, const at::Tensor& initial,
                   const at::Tensor& text, const at::Tensor& negative, const LoopOptions& options) {
  using Clock = std::chrono::steady_clock;
  at::NoGradGuard no_grad;
  FPSA_CHECK(initial.defined() && initial.dim() == 5, "initial latents must have shape [B, C, T, H, W], received ",
             initial.defined() ? join(initial.sizes()) : "none");
  auto sampler = make_sampler(options.scheduler, options.steps);
  at::Tensor latents = initial.to(at::kFloat);
  FPSA_CHECK(at::isfinite(latents).all().item<bool>(), "the initial latents hold non-finite values");

  for (int64_t step = 0; step < options.steps; ++step) {
    if (options.cancel != nullptr && options.cancel->load())
      throw Cancelled(join("cancelled before step ", step + 1, " of ", options.steps));
    const Clock::time_point begin = Clock::now();
    nn::DenoiserInput input;
    input.latents = latents;
    input.timestep = at::full({latents.size(0)}, sampler->sigmas().timesteps[step], at::kFloat);
    input.text = text;
    input.step = step;
    input.num_steps = options.steps;
    at::Tensor velocity =
        guided_velocity(model, attention, input, negative, options.guidance_scale, options.guidance_run);
    latents = sampler->step(velocity, latents);
    FPSA_CHECK(at::isfinite(latents).all().item<bool>(), "latents are no longer finite after step ", step + 1, " of ",
               options.steps, " (",
               at::isfinite(velocity).all().item<bool>() ? "the sampler" : "the model's prediction",
               " has NaN or infinity); check the weights' dtype, or try --dtype f32 and --attention dense");
    if (options.progress)
      options.progress(step + 1, options.steps, std::chrono::duration<double>(Clock::now() - begin).count());
  }
  return latents;
}

}  // namespace fpsa::diffusion
