// Parity cases of the samplers and the sampling loop.

#include <ATen/core/grad_mode.h>

#include "fpsa/accel/methods.h"
#include "fpsa/base/check.h"
#include "fpsa/diffusion/loop.h"
#include "fpsa/diffusion/sampler.h"
#include "fpsa/models/wan/dit.h"
#include "tests/tools/parity.h"

namespace fpsa::parity {
namespace {

// {"runs": [{"scheduler": scheduler_config.json, "steps": n}, ...]}, initial -> per run i: "i.sigmas", "i.timesteps"
// and "i.samples" [n, ...], the samples after every step under the velocity field tanh(3 x + t / 500) + x / 2, which
// the oracle knows too.
void trajectory(const nlohmann::json& config, const nn::TensorMap& in, nn::TensorMap& out) {
  at::NoGradGuard guard;
  const nlohmann::json& runs = config.at("runs");
  for (size_t i = 0; i < runs.size(); ++i) {
    const auto scheduler = diffusion::SchedulerConfig::from_json(runs[i].at("scheduler"));
    auto sampler = diffusion::make_sampler(scheduler, runs[i].at("steps").get<int64_t>());
    at::Tensor x = need(in, "initial");
    std::vector<at::Tensor> samples;
    for (float timestep : sampler->sigmas().timesteps) {
      at::Tensor velocity = at::tanh(x * 3.0 + timestep / 500.0) + x * 0.5;
      x = sampler->step(velocity, x);
      samples.push_back(x);
    }
    const std::string prefix = std::to_string(i) + ".";
    out[prefix + "samples"] = at::stack(samples);
    out[prefix + "sigmas"] = at::tensor(sampler->sigmas().sigmas);
    out[prefix + "timesteps"] = at::tensor(sampler->sigmas().timesteps);
  }
}

// {"scheduler": json} -> its canonical form, written and read again; the result's bytes as a tensor.
void scheduler(const nlohmann::json& config, const nn::TensorMap&, nn::TensorMap& out) {
  const auto read = diffusion::SchedulerConfig::from_json(config.at("scheduler"));
  const std::string text = diffusion::SchedulerConfig::from_json(read.to_json()).to_json().dump();
  out["json"] = at::tensor(std::vector<int64_t>(text.begin(), text.end()));
}

// {"runs": [{"seed": n, "shape": [C, T, H, W]}, ...]} -> "i": noise of run i
void noise(const nlohmann::json& config, const nn::TensorMap&, nn::TensorMap& out) {
  const nlohmann::json& runs = config.at("runs");
  for (size_t i = 0; i < runs.size(); ++i)
    out[std::to_string(i)] =
        diffusion::make_noise(runs[i].at("seed").get<uint64_t>(), runs[i].at("shape").get<std::array<int64_t, 4>>());
}

// {"transformer", "scheduler", "steps", "guidance_scale", "sequential"}, initial, text, negative -> final
void denoise(const nlohmann::json& config, const nn::TensorMap& in, nn::TensorMap& out) {
  at::NoGradGuard guard;
  MapSource source(in);
  models::wan::WanDit dit(models::wan::DitConfig::from_json(config.at("transformer")), nn::Scope(source));
  source.finish();
  auto method = accel::make_dense();
  diffusion::LoopOptions options;
  options.scheduler = diffusion::SchedulerConfig::from_json(config.at("scheduler"));
  options.steps = config.at("steps").get<int64_t>();
  options.guidance_scale = config.at("guidance_scale").get<double>();
  options.guidance_run =
      config.value("sequential", false) ? diffusion::GuidanceRun::kSequential : diffusion::GuidanceRun::kBatched;
  at::Tensor negative = options.guidance_scale > 1.0 ? need(in, "negative") : at::Tensor();
  out["final"] = diffusion::denoise(dit, *method, need(in, "initial"), need(in, "text"), negative, options);
}

ParityCase trajectory_case("sampler.trajectory", trajectory);
ParityCase scheduler_case("sampler.scheduler", scheduler);
ParityCase noise_case("sampler.noise", noise);
ParityCase denoise_case("loop.denoise", denoise);

}  // namespace
}  // namespace fpsa::parity
